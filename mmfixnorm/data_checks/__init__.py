"""Checks of data that report mistakes with their config key, for the tools, searches and a hook.

- :mod:`.paths`: the files and folders that a config names;
- :mod:`.coco`: the required content of a COCO annotation file;
- :mod:`.datasets`: built data sets;
- :mod:`.labels`: which class a label stands for, in each data set and over all of them;
- :mod:`.masks`: the share of each class in masks;
- :mod:`.explain`: the reason why a data set could not be built.

No module here imports a toolbox.
"""
