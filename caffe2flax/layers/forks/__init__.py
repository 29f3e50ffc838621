"""Layer types of Caffe's forks, one file for each family or subject."""
