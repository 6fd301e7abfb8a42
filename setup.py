"""Which directories become which packages; everything else stands in pyproject.toml.

The backbones live in ``zoo/`` at the top level of the repository, but a wheel must not take the
import name ``zoo`` from anybody: they are the package ``pgt_fx.zoo``. ``pgt_fx/zoo`` is a relative
symbolic link to that folder, so that there is one tree to look into, for Python and for everything
that reads Python without running it:

* a wheel and a source distribution have the files under ``pgt_fx/zoo`` and nowhere else:
  setuptools copies what a link leads to, and ``zoo`` itself is no package that is named here;
* ``pip install -e .`` writes the path of the checkout to a ``.pth`` file. That is what
  ``package_dir={"": "."}`` asks for. Without it, or with a folder of another name for a
  package, setuptools writes an import hook, which mypy and pyright can't follow: they would find
  no ``pgt_fx`` at all.

Where links don't come through (git on Windows without the right to make them leaves a small text
file, some copies make two folders of one), ``pgt_fx.zoo`` is mapped to ``zoo/`` as setuptools
can do it: wheels are the same, and an editable install works through the hook; only type checkers
can't read it.

It is said here because pyproject.toml has either a search for packages or a written list of
them. The search finds no mapped package, and a list would silently leave out of the wheel
whatever subpackage somebody forgets to add to it.
"""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
folder, link = here / "zoo", here / "pgt_fx" / "zoo"
# In a source distribution pgt_fx/zoo is a folder of its own, and there is no other.
one_tree = link.is_dir() and (not folder.is_dir() or link.samefile(folder))
mapped = {"": "."} if one_tree else {"pgt_fx.zoo": "zoo"}

packages = {*find_packages(include=["pgt_fx", "pgt_fx.*"]), "pgt_fx.zoo"}
setup(
    packages=sorted(packages),
    package_dir=mapped,
    package_data={"pgt_fx": ["py.typed"]},
)
