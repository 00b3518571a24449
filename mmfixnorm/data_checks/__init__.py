"""Mistakes about data, told with their config key: used by the tools, by searches and by a hook.

- :mod:`.paths`: the files and folders that a config names;
- :mod:`.coco`: what a COCO annotation file must hold;
- :mod:`.datasets`: what a built data set says of itself;
- :mod:`.explain`: why a data set could not be built.

Nothing here imports a toolbox.
"""
