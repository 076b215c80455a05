"""Maps earlier names of sam2fast's modules, classes and functions to current names, for old imports and pickles."""

# Earlier module -> current module. Submodules without an entry move with their package.
MOVED: dict[str, str] = {}
# Earlier modules that documents named: the first import of each gives a DeprecationWarning.
DOCUMENTED: tuple[str, ...] = ()
# Current module -> earlier attribute -> full current name. The module had the attribute at its current or earlier name.
RENAMED: dict[str, dict[str, str]] = {}
