"""Which directories become which packages; everything else stands in pyproject.toml.

The backbones live in ``zoo/`` at the top level of the repository, but a wheel must not
take the import name ``zoo`` from anybody: they are shipped as ``pgt_fx.zoo``.  setuptools
can say so (``package_dir``), and follows it in both kinds of install:

* in a wheel the folder is copied to ``pgt_fx/zoo``;
* ``pip install -e .`` writes an import hook that maps ``pgt_fx`` to ``./pgt_fx`` and
  ``pgt_fx.zoo`` to ``./zoo``, so that edits are seen at once.

It is said here because pyproject.toml has either a search for packages or a written list of
them.  The search cannot find ``pgt_fx.zoo``, and a list would silently leave out of the wheel
whatever subpackage somebody forgets to add to it.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["pgt_fx", "pgt_fx.*"]),
        "pgt_fx.zoo",
    ],
    package_dir={"pgt_fx.zoo": "zoo"},
    package_data={"pgt_fx": ["py.typed"]},
)
