"""Which pictures belong to a sheet."""

from pathlib import Path

from fluxflow_exp.run.sample_files import tiles_of


def test_a_sheet_has_the_pictures_of_its_stem_row_by_row(tmp_path: Path) -> None:
    names = ["vae_001_00010_aaaaaa-original", "vae_001_00010_bbbbbb-original", "vae_001_00010_aaaaaa-nr_o"]
    names += ["vae_001_00010_aaaaaa_ns_o", "vae_001_00010_bbbbbb-ctx"]
    others = ["vae_001_00020_aaaaaa-original", "vae_001_00010_aaaaaa-other", "vae_001_00010_zzzzzz-nr_o"]
    for name in [*names, *others, "vae_001_00010_grid"]:
        (tmp_path / f"{name}.webp").touch()
    found = tiles_of(tmp_path / "vae_001_00010_grid.webp", [])
    assert {label: [path.stem for path in tiles] for label, tiles in found.items()} == {
        "original": names[:2], "reconstruction": names[2:3], "sampled": names[3:4], "latent (PCA)": names[4:],
    }  # fmt: skip
    found = tiles_of(tmp_path / "vae_001_00010_grid.webp", ["bbbbbb", "aaaaaa", "bbbbbb"])
    assert [path.stem for path in found["original"]] == [names[1], names[0]], "in the order of the sheet"
