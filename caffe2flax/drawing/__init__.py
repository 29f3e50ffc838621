"""Pictures of nets: boxes and arrows, laid out by Graphviz."""
