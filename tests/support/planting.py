"""How tests plant what pip leaves of installed packages."""

from __future__ import annotations


def plant_packages(folder, **versions):
    """Makes the metadata of packages, an underscore for a hyphen; returns their folder."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        )
    return str(folder)
