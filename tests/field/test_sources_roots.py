"""Sources lie in configured roots only, however their spec is spelled and wherever it comes from."""

import os
from pathlib import Path

import pytest

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.settings import as_variable, load_settings
from heal_tasks.core.specs import is_within, join_specs, split_specs


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configured folder with a folder beside it, and the working folder above both."""
    for name in ("inbox/sub", "inbox-old", "secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "inbox" / "way-out").symlink_to(tmp_path / "secret")
    (tmp_path / "way-in").symlink_to(tmp_path / "inbox")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAL_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("HEAL_SOURCES", f"file:{tmp_path}/inbox s3://bucket/docs/public/")
    return tmp_path / "inbox"


@pytest.mark.parametrize(
    "spec",
    [
        "file:inbox", "file:./inbox/", "file:inbox/sub/../sub", "file:way-in/sub", "file://{inbox}", "file:var/inbox",
        "file:var/inbox/not-yet", "s3://bucket/docs/public", "s3://bucket//docs/public/a", "s3://bucket/docs/public/",
        "pydocs:numpy", "pydocs:numpy,scipy",
    ],
)  # fmt: skip
def test_a_source_below_the_configured_ones_is_taken(inbox: Path, spec: str) -> None:
    spec = spec.format(inbox=inbox)
    assert load_settings(sources=spec).sources == (spec,)


@pytest.mark.parametrize(
    "spec",
    [
        "file:/etc", "file:/", "file:..", "file:.", "file:inbox/..", "file:inbox/../secret", "file:inbox-old",
        "file:inbox/way-out", "file:inbox/way-out/x", "file://etc", "file:///etc/passwd", "file:~root",
        "file:/proc/self/cwd", "file:INBOX", "file:var", "file:inbox%2f..%2f..%2fetc/../../../etc", "file:circle",
        "file:",
        "FILE:/etc", "File:inbox", "/etc", "http://x/y", "gs://bucket/docs/public",
        "s3://bucket", "s3://bucket/", "s3://bucket/docs", "s3://bucket/docs/public-old", "s3://bucket/docs/PUBLIC",
        "s3://bucket/docs/public/../private", "s3://bucket/docs/public/./x", "s3://bucket/../other", "s3://other/docs/public",
        "s3://Bucket/docs/public", "s3://bucket%2Fdocs%2Fpublic", "s3://bucket/docs%2Fpublic", "s3:///docs/public", "S3://bucket",
        "s3://bucket/docs/public\x00/x",
    ],
)  # fmt: skip
def test_any_other_source_is_refused_with_the_setting_that_would_allow_it(inbox: Path, spec: str) -> None:
    with pytest.raises(
        SettingsError, match=r"HEAL_SOURCE_ROOTS|unknown source|names no folder|contains|'\.\.'|resolved"
    ):
        load_settings(sources=spec)
    with pytest.raises(SettingsError):
        load_settings(sources=f"file:{inbox} {join_specs([spec])}")  # beside a good one, too


def test_the_message_names_setting_source_and_roots(inbox: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(sources="file:/etc")
    assert "source 'file:/etc' lies in none of HEAL_SOURCE_ROOTS" in str(caught.value)
    assert f"(file:{inbox} s3://bucket/docs/public/ file:{inbox.parent}/var/inbox pydocs:)" in str(caught.value)


def test_roots_that_are_set_bind_the_environment_too(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_SOURCE_ROOTS", f'file:{inbox.parent} "s3://bucket"')
    assert load_settings(sources="file:secret s3://bucket/else").sources == ("file:secret", "s3://bucket/else")
    with pytest.raises(SettingsError, match="lies in none of HEAL_SOURCE_ROOTS"):
        load_settings(sources="pydocs:numpy")
    monkeypatch.setenv("HEAL_SOURCE_ROOTS", f"file:{inbox} pydocs:numpy,scipy")
    with pytest.raises(SettingsError, match="'s3://bucket/docs/public/' lies in none"):
        load_settings()
    monkeypatch.setenv("HEAL_SOURCES", f"file:{inbox}")
    assert load_settings(sources="pydocs:scipy").sources == ("pydocs:scipy",)
    with pytest.raises(SettingsError, match="'pydocs:numpy,pandas' lies in none"):
        load_settings(sources="pydocs:numpy,pandas")


def test_a_root_that_is_a_link_is_the_folder_behind_it(inbox: Path) -> None:
    assert is_within("file:inbox/sub", ["file:way-in"])
    assert not is_within("file:secret", ["file:inbox/sub"])
    assert is_within(f"file:{os.path.relpath(inbox)}", [f"file:{inbox}/"])


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("file:/a s3://b/c", ("file:/a", "s3://b/c")),
        (" file:/a\n\tfile:/b ", ("file:/a", "file:/b")),
        ('file:"/data/My Folder" s3://b', ("file:/data/My Folder", "s3://b")),
        ('"file:/data/My Folder"', ("file:/data/My Folder",)),
        (r"file:C:\new\docs", (r"file:C:\new\docs",)),
        (r'"file:C:\My Docs\x"', (r"file:C:\My Docs\x",)),
        ("file:/it's", ("file:/it's",)),
        ("file:/a#b", ("file:/a#b",)),
        ("file:/data/My%20Folder", ("file:/data/My%20Folder",)),
        ("", ()),
    ],
)
def test_lists_of_sources(text: str, specs: tuple[str, ...]) -> None:
    assert split_specs(text) == specs
    assert split_specs(join_specs(specs)) == specs


def test_a_folder_with_blanks_goes_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("HEAL_SOURCES", '"file:/data/My Folder" file:/b')
    settings = load_settings()
    assert settings.sources == ("file:/data/My Folder", "file:/b")
    assert as_variable(settings.sources) == '"file:/data/My Folder" file:/b'
    assert load_settings(sources='file:"/data/My Folder/Sub Folder"').sources == ("file:/data/My Folder/Sub Folder",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file:/data/My Folder", "unknown source 'Folder'; write file:FOLDER, .* with blanks in double quotes"),
        ('"file:/data/My Folder', "a double quote is not closed"),
        ("file:/" + "x" * 1100, "is longer than 1024 bytes"),
    ],
)
def test_a_spec_that_is_not_understood_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("HEAL_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("HEAL_SOURCES", text)
    with pytest.raises(SettingsError, match=message):
        load_settings()
