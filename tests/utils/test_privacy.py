"""No secret and no path of a machine stays in what is published; everything else does."""

from pathlib import Path

import pytest

from bndl_hf.utils.privacy import is_secret_name, private_part, public_text, public_values

HF = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        # paths of every kind, alone and inside longer texts
        ("/srv/photos/cat.png", "cat.png"),
        ("/home/jo", "~"),
        ("C:/Users/jo/", "~"),
        (r"C:\Users\Jo Smith\Pictures\cat.png was read", "cat.png was read"),
        ("D:/photos/cat.png", "cat.png"),
        (r"\\server\share\jo\cat.png", "cat.png"),
        ("//server/share/cat.png", "cat.png"),
        ("~/pets", "pets"),
        ("~jo/pets", "pets"),
        ("$HOME/pets and ${HOME}/cats", "pets and cats"),
        (r"%USERPROFILE%\pets", "pets"),
        ("split 'test' of ../data/private/cifar10", "split 'test' of cifar10"),
        ("outputs/../../jo/pets", "pets"),
        ("file:///home/jo/My%20cat.png", "My cat.png"),
        ("sqlite:////home/jo/runs.db", "runs.db"),
        ("jo@server:/home/jo/pets", "pets"),
        ("sftp://jo@server/home/jo/pets", "pets"),
        ("a=/home/jo/x,b=/tmp/y", "a=x,b=y"),
        ("/home/jo/x,/tmp/y;C:/z/w", "x,y;w"),
        ("images:/data/jo/x", "images:x"),
        ('{"data": "/home/jo smith/data/x"}', '{"data": "x"}'),
        (r'"C:\\Users\\jo\\x.png"', '"x.png"'),
        ("PosixPath('/home/jo/x')", "PosixPath('x')"),
        # secrets
        (f"--hub_token {HF} --lr 1e-3", "--hub_token ... --lr 1e-3"),
        ("--hub-tok=short --seed 0", "--hub-tok=... --seed 0"),
        (f"logged in with {HF}.", "logged in with ...."),
        ("HF_TOKEN=short python x.py", "HF_TOKEN=... python x.py"),
        ('{"hub_token": "short", "seed": 0}', '{"hub_token": "...", "seed": 0}'),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer ..."),
        ("https://jo:pass@host.org/x.zip", "https://host.org/x.zip"),
        ("postgresql+psycopg://jo:p@ss@db/x", "postgresql+psycopg://db/x"),
        ("https://host.org/x.zip?signature=abc&size=3", "https://host.org/x.zip?signature=...&size=3"),
        ("https://host.org/?from=/home/jo/x", "https://host.org/?from=x"),
    ],
)
def test_what_is_private_goes(text, public):
    assert public_text(text) == public
    assert public_text(public) == public


@pytest.mark.parametrize(
    "text",
    [
        "google/vit-base-patch16-224",
        "outputs/mine",
        "./images",
        "https://example.org/home/page",
        "hf://datasets/org/name",
        "hf_transfer",
        "the home/office rug, and/or 3 km / h",
        "tokenizer_name: bert, num_tokens: 5",
        "p < 0.05, 1e-3, -1, ~5 %",
        "--metric_for_best_model nll --tags a,b",
        "git@github.com:org/name",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert public_text(text) == text
    assert private_part(text) is None


def test_values_are_cleaned_at_every_depth_and_in_keys():
    values = {
        "runs": [{"/home/jo/pets": ("~/x", Path("/srv/y"), Path("rel/z"))}],
        "hub_token": "short",
        "num_tokens": 3,
        7: None,
    }
    assert public_values(values) == {
        "runs": [{"pets": ["x", "y", "rel/z"]}],
        "hub_token": "...",
        "num_tokens": 3,
        "7": None,
    }
    with pytest.raises(ValueError, match=r"results\['runs'\] has two keys that are 'pets' without what is private"):
        public_values({"runs": {"/a/pets": 1, "/b/pets": 2}})


def test_names_of_secrets_are_known_with_their_abbreviations():
    secret = "hub_token --hub-tok --hub_t token api-key key userPassword HF_TOKEN wandb_api_key --pas client_secret"
    assert all(map(is_secret_name, secret.split()))
    harmless = "hub_strategy tokenizer_name max_new_tokens metric_key_prefix keys seed author class --t"
    assert not any(map(is_secret_name, harmless.split()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"token: {HF}", "an access token"),
        ("see https://jo:swordfish@host.org", "a password in an address (https://...)"),
        ("data in /mnt/c/Users/jo/x", "/mnt/c/Users/jo"),
        ("C:/users/jo/x", "C:/users/jo"),
        ("file:///srv/x", "file:///srv/x"),
        ("?path=%2Fhome%2Fjo%2Fx", "%2Fhome%2Fjo"),
    ],
)
def test_what_must_not_be_published_is_found_and_no_secret_is_repeated(text, found):
    assert private_part(text) == found


@pytest.mark.parametrize("around", ["a = 1\n", "Straße\n", "b\xff\n\n"])
def test_it_is_found_on_any_line(around):
    for line in (f"x {HF}", "see https://jo:fish@host.org", "C:/users/jo/x", r"C:\USERS\jo", "/root/x", "%2FHome%2Fjo"):
        found = private_part(line)
        assert found
        assert private_part(around * 3 + line) == private_part(around + line + "\n" + around * 2) == found
    assert private_part(around * 3 + "the home/office rug, https://example.org/home/page") is None
