"""Readers of real files, simulators, and problems with an exactly known posterior."""

if __name__ == "datasets":
    raise ModuleNotFoundError("this folder is sciinstruct.datasets; import it by that name", name="datasets")
