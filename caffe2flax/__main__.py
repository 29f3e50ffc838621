"""`python -m caffe2flax`."""

import sys

from caffe2flax.cli import main

sys.exit(main())
