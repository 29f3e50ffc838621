"""`python -m caffe2flax`."""

import sys

from caffe2flax.cli.main import main

sys.exit(main())
