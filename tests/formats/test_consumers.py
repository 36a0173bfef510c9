"""Verify that other programs read Neonym's embedding files, and that `neonym inspect` describes what they do.

The rules of most programs are written a second time in tests/support/consumers.py; diffusers is the real library.
"""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from neonym.cli.main import main
from neonym.formats import read_embedding, read_words, support_by_program, write_embedding
from neonym.text.vocabulary import clip_has, vocabulary_warning
from neonym.types import Embedding
from support import consumers

FAMILIES = {"sd1": consumers.SD1, "sd2": consumers.SD2, "sdxl": consumers.SDXL}
ENDINGS = ("safetensors", "pt", "ckpt", "bin", "png")
NAMES = ("text_encoder", "text_encoder_2")


def word(family: str, count: int = 3, token: str = "zyzzo") -> Embedding:
    generator = torch.Generator().manual_seed(len(family) + count)
    vectors = {
        name: torch.randn(count, width, generator=generator)
        for name, width in zip(NAMES, FAMILIES[family], strict=False)
    }
    return Embedding(token, vectors, {"neonym.steps": "7", "neonym.base_model": "a model", "made by": "ünïcode \n two"})


def outcome(program, path, widths) -> dict | str:
    try:
        return program(path, widths)
    except consumers.Refused as why:
        return str(why)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_each_program_reads_the_same_numbers_or_refuses_the_file(tmp_path, family, ending):
    """A program reads a file bit for bit where `inspect` says that it reads it, and refuses it otherwise."""
    written, widths = word(family), FAMILIES[family]
    path = write_embedding(written, tmp_path / f"zyzzo.{ending}")
    described, readers = support_by_program(read_words(path)[1], "zyzzo"), 0
    for name, program in consumers.PROGRAMS.items():
        found, right = outcome(program, path, widths), described[name].startswith("reads")
        assert isinstance(found, dict) == right, (name, described[name], found)
        if not isinstance(found, dict):
            continue
        readers += 1
        for encoder, rows in written.vectors.items():
            known_mistake = name == "stable-diffusion.cpp" and family == "sdxl" and encoder == "text_encoder"
            assert known_mistake or torch.equal(found[rows.shape[1]], rows), name
    if ending != "png":
        for program in (consumers.sd_scripts_generator, consumers.sd_scripts_trainer):
            found = program(path, widths)
            assert all(torch.equal(found[rows.shape[1]], rows) for rows in written.vectors.values())
        assert described["sd-scripts"] == "reads it"
    assert (
        readers
        >= {
            "safetensors": 6,
            "pt": 6 if family == "sdxl" else 7,
            "ckpt": 3,
            "bin": 4 if family == "sdxl" else 3,
            "png": 2,
        }[ending]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_converting_between_all_pairs_of_layouts_loses_nothing(tmp_path, family):
    """Numbers, word and metadata survive; the word consists of punctuation and has several vectors."""
    written = word(family, count=2, token="<日本 (x):1.3>")
    files = {e: write_embedding(written, tmp_path / f"a.{e}") for e in ENDINGS}
    for source in ENDINGS:
        for target in ENDINGS:
            out = tmp_path / f"{source}-{target}.{target}"
            assert main(["convert", str(files[source]), str(out)]) == 0
            back = read_embedding(out)
            assert back.token == written.token
            assert set(back.vectors) == set(written.vectors)
            assert all(torch.equal(back.vectors[n], rows) for n, rows in written.vectors.items())
            assert written.metadata.items() <= back.metadata.items()


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Return, for each family, diffusers' loader on encoders of the real widths with one layer and a tiny vocabulary."""
    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [chr(i) for i in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")

    class Pipeline(TextualInversionLoaderMixin):
        components, hf_device_map = {}, None

        def __init__(self, widths):
            self.tokenizers = [CLIPTokenizer.from_pretrained(folder) for _ in widths]
            self.encoders = [
                CLIPTextModel(CLIPTextConfig(hidden_size=w, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                                             vocab_size=len(pieces), eos_token_id=len(pieces) - 1))
                for w in widths
            ]  # fmt: skip
            self.tokenizer, self.text_encoder = self.tokenizers[0], self.encoders[0]

        def rows(self, token: str, encoder: int, count: int) -> torch.Tensor:
            ids = self.tokenizers[encoder].convert_tokens_to_ids([token, *(f"{token}_{i}" for i in range(1, count))])
            assert min(ids) >= len(pieces)
            return self.encoders[encoder].get_input_embeddings().weight[ids].detach()

    return {family: Pipeline(widths) for family, widths in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ending", ["safetensors", "pt", "ckpt", "bin"])
def test_diffusers_loads_every_format_of_every_family(tmp_path, pipelines, family, ending):
    """The real library loads each file as the usage card says: with one call, or one for each of SDXL's encoders."""
    from neonym.formats.usage import usage_card

    token = f"zyzzo-{ending}"
    written = word(family, token=token)
    path, pipe = write_embedding(written, tmp_path / f"{token}.{ending}"), pipelines[family]
    code = usage_card(written, path).split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if not line.startswith("image =")]
    pipe.text_encoder_2, pipe.tokenizer_2 = pipe.encoders[-1], pipe.tokenizers[-1]
    exec("\n".join(lines).replace(f'"{path.name}"', repr(str(path))), {"pipe": pipe})
    for encoder, rows in enumerate(written.vectors.values()):
        assert torch.equal(pipe.rows(token, encoder, len(rows)), rows)


ONE = torch.randn(4, 768, generator=torch.Generator().manual_seed(3))
G = torch.randn(4, 1280, generator=torch.Generator().manual_seed(4))
PARAMETERS = torch.nn.ParameterDict({"*": torch.nn.Parameter(ONE)})
COLUMNS = (
    "AUTOMATIC1111", "Forge", "ComfyUI", "SD.Next", "InvokeAI", "diffusers", "stable-diffusion.cpp", "generator", "trainer",
    "OneTrainer",
)  # fmt: skip
WEB = {"string_to_token": {"*": 265}, "string_to_param": {"*": ONE}, "name": "x", "step": 1, "sd_checkpoint": None}
MEASURED = {  # as each program's own code did: o the same numbers, . refused, x wrong numbers, p partly
    "emb_params.safetensors": ({"emb_params": ONE}, "ooooooooo."),
    "double.safetensors": ({"emb_params": ONE.double()}, "ooooooooo."),
    "half.safetensors": ({"emb_params": ONE.half()}, "ooooooxoo."),
    "bfloat.safetensors": ({"emb_params": ONE.bfloat16()}, "ooooooxoo."),
    "flat.safetensors": ({"emb_params": ONE[0]}, "ooox.ooxo."),
    "deep.safetensors": ({"emb_params": ONE[None]}, "..o...o..."),
    "word.safetensors": ({"<tok>": ONE}, "oooo.oooo."),
    "clip_l.safetensors": ({"clip_l": ONE}, "oooo.oooo."),
    "emp_params.safetensors": ({"emp_params": ONE}, "oooo.ooooo"),
    "new.pt": (WEB, ".oooooooo."),
    "both.pt": (WEB | {"emp_params": ONE}, ".ooooooooo"),
    "parameter.pt": (WEB | {"string_to_param": {"*": torch.nn.Parameter(ONE)}}, ".ooooo.o.."),
    "half.pt": (WEB | {"string_to_param": {"*": ONE.half()}}, ".oooooxoo."),
    "learned_embeds.bin": ({"<tok>": ONE}, ".oo..o.oo."),
    "original.pt": ({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": PARAMETERS}, ".oo......."),
    "pair.safetensors": ({"clip_l": ONE, "clip_g": G}, "oooooopooo"),
    "half-pair.safetensors": ({"clip_l": ONE.half(), "clip_g": G.half()}, "ooooooxooo"),
    "pair.pt": ({"clip_l": ONE, "clip_g": G}, ".oo.oopooo"),
    "stray.safetensors": ({"clip_l": ONE, "clip_g": G, "stray": torch.ones(1)}, "ooo.oopooo"),
    "unequal.safetensors": ({"clip_l": ONE, "clip_g": G[:2]}, "oooxoopxxo"),
    "others.safetensors": ({"text_encoders_0": ONE, "text_encoders_1": G}, "..po..p..."),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_inspect_agrees_with_the_measured_behaviour(tmp_path, name, capsys):
    content, measured = MEASURED[name]
    path = tmp_path / name
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    content_of_file = consumers_view(path)
    described = support_by_program(content_of_file, path.stem)
    described |= {"generator": described["sd-scripts"], "trainer": described["sd-scripts"]}
    found = ""
    for column in COLUMNS:
        text = described[column]
        kind = "o" if text.startswith(("reads it", "one call")) else "p" if text.startswith("reads") else "."
        if text.startswith("misreads") or (column == "generator" and "generator misreads" in text):
            kind = "x"
        elif column == "trainer" and "plain tensors only" in text:
            kind = "."
        found += kind
    assert found == measured, described
    if name not in ("unequal.safetensors", "deep.safetensors"):
        assert main(["inspect", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["programs"]["ComfyUI"] == described["ComfyUI"]


def consumers_view(path):
    """Return the content of a file, even of one that Neonym refuses to read."""
    from neonym.formats import read_content

    return read_content(path)


@pytest.mark.parametrize("name", MEASURED)
def test_the_second_implementation_agrees_with_the_measured_behaviour(tmp_path, name):
    """The rules in tests/support/consumers.py give the same table."""
    content, measured = MEASURED[name]
    path = tmp_path / name
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    widths = consumers.SDXL if "clip_g" in content or "text_encoders_1" in content else consumers.SD1
    rules = {**consumers.PROGRAMS, "generator": consumers.sd_scripts_generator, "trainer": consumers.sd_scripts_trainer}
    for column, kind in zip(COLUMNS, measured, strict=True):
        if column == "diffusers" or (column == "stable-diffusion.cpp" and kind == "p"):
            continue
        assert isinstance(outcome(rules[column], path, widths), dict) == (kind == "o"), column


OTHER_PROGRAMS = {  # unusual files, and how the description of each program begins
    "second.safetensors": (
        {"emb_params": G},
        {"AUTOMATIC1111": "skips", "ComfyUI": "reads it for SDXL's second encoder", "InvokeAI": "refuses", "SD.Next": "refuses",
         "diffusers": "one call with text_encoder=pipe.text_encoder_2", "stable-diffusion.cpp": "refuses", "sd-scripts": "refuses"},
    ),
    "clip_g.safetensors": ({"clip_g": G}, {"Forge": "skips", "ComfyUI": "reads it for SDXL's second", "InvokeAI": "refuses"}),
    "lora.safetensors": (
        {"lora_unet_x.lora_down.weight": torch.ones(4, 320), "bundle_emb.x.string_to_param.*": ONE},
        {"AUTOMATIC1111": "refuses it as an embedding, reads it as a LoRA", "Forge": "refuses it as an embedding",
         "SD.Next": "refuses it as an embedding, reads it as a LoRA", "ComfyUI": "reads it: embedding:lora", "InvokeAI": "refuses",
         "diffusers": "refuses", "stable-diffusion.cpp": "refuses", "sd-scripts": "refuses", "OneTrainer": "refuses"},
    ),
    "lora2.safetensors": (
        {"lora_unet_x.lora_down.weight": torch.ones(4, 320), "bundle_emb.x.emb_params": ONE}, {"ComfyUI": "takes the first tensor", "AUTOMATIC1111": "refuses it as"},
    ),
    "word.ckpt": (
        WEB, {"ComfyUI": "reads it by its whole name: embedding:word.ckpt", "InvokeAI": "reads it: <word>", "Forge": "ignores"},
    ),
    "invoke.bin": (WEB, {"InvokeAI": "reads it: <invoke>", "ComfyUI": "reads it: embedding:invoke", "SD.Next": "ignores"}),
    "float8.safetensors": ({"emb_params": ONE.to(torch.float8_e4m3fn)}, {"stable-diffusion.cpp": "misreads it", "Forge": "reads it"}),
    "list.pt": ([{"*": ONE}], {"ComfyUI": "reads it", "AUTOMATIC1111": "refuses it", "diffusers": "refuses it: it is a list"}),
    "two.pt": (WEB | {"string_to_param": {"*": ONE, "a": ONE + 1}}, {"AUTOMATIC1111": "refuses", "ComfyUI": "reads the first of its"}),
    "texts.pt": ({"clip_l": ONE, "clip_g": G, "name": "x"}, {"Forge": "refuses it: some values other than clip_l and clip_g"}),
    "a,b.safetensors": ({"emb_params": ONE}, {"InvokeAI": "reads it, but prompts cannot contain its name", "Forge": "reads it"}),
    "a.b.safetensors": ({"emb_params": ONE}, {"InvokeAI": "reads it: <a.b>, outside of ( ) only"}),
    "sd1.safetensors": ({"emb_params": ONE}, {"OneTrainer": "refuses it: it reads emp_params, not emb_params (neonym convert"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_PROGRAMS)
def test_unusual_files_are_described(tmp_path, name):
    """Files that the description calls readable or refused are so by the second implementation too."""
    content, wanted = OTHER_PROGRAMS[name]
    path = tmp_path / name
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    described = support_by_program(consumers_view(path), path.stem)
    for program, text in wanted.items():
        assert described[program].startswith(text), (program, described[program])
        rule = consumers.PROGRAMS.get(program)
        widths = consumers.SDXL if "clip_g" in content or name.startswith("second") else consumers.SD1
        if rule is not None and not name.startswith("two") and not text.startswith("takes"):
            partly = "second" in described[program] or ", but " in text
            assert isinstance(outcome(rule, path, widths), dict) == (text.startswith("reads it") and not partly), (
                program
            )


@pytest.mark.parametrize("name", ["squirrel", "teapot", "abig", "absolu", "cat", "mychar4", "zyzzo"])
@pytest.mark.parametrize("count", [1, 2])
def test_vocabulary_warnings_match_what_each_program_looks_up(name, count):
    """The warnings agree with the real diffusers, and with sd-scripts' rule that every name it adds must be new."""
    from transformers import CLIPTokenizer

    from neonym.models.source import BUILTIN_MODELS

    tokenizer = CLIPTokenizer.from_pretrained(BUILTIN_MODELS / "emoji" / "tokenizer")
    described = vocabulary_warning(name, count, clip_has) or ""
    vocabulary, pieces = dict(tokenizer.get_vocab()), tokenizer.tokenize(name)
    assert ("diffusers" in described) == refused_by_diffusers(tokenizer, name, count)
    names = [name, *(f"{name}{i}" for i in range(1, count))]
    assert ("sd-scripts" in described) == any(one in vocabulary for one in names)
    assert ("SD.Next" in described) == (name in vocabulary)
    assert ("ordinary word" in described) == (pieces == [f"{name}</w>"])


def refused_by_diffusers(tokenizer, name, count) -> bool:
    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTextConfig, CLIPTextModel

    class Pipeline(TextualInversionLoaderMixin):
        components, hf_device_map = {}, None

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    encoder = CLIPTextModel(CLIPTextConfig(**sizes))
    try:
        rows = {name: torch.ones(count, 8)}
        Pipeline().load_textual_inversion(rows, token=name, tokenizer=tokenizer, text_encoder=encoder)
    except ValueError as error:
        return "already in tokenizer vocabulary" in str(error)
    return False


def test_problematic_names_are_reported(tmp_path, capsys):
    for name, words in {
        "cat": "ordinary word", "two words": "ComfyUI cannot use a name with spaces", "<tok>": "Windows", "ünï": "InvokeAI",
        "a+b": "InvokeAI", "Zyzzo": "capital letters", "con": "Windows",
    }.items():  # fmt: skip
        path = write_embedding(word("sd1", token=name), tmp_path / f"{name}.safetensors")
        assert main(["inspect", str(path)]) == 0
        assert words in capsys.readouterr().out
    path = write_embedding(word("sd1"), tmp_path / "my-word.v2.safetensors")
    assert main(["inspect", str(path)]) == 0
    assert "note:" not in capsys.readouterr().out


def test_every_word_of_a_lora_gets_a_file(tmp_path, capsys):
    lora = {"lora_unet_x.alpha": torch.ones(1), "bundle_emb.my.word.v2.string_to_param.*": ONE, "bundle_emb.../x.emb_params": ONE + 1,
            "bundle_emb.xl.clip_l": ONE.clone(), "bundle_emb.xl.clip_g": G}  # fmt: skip
    save_file(lora, tmp_path / "lora.safetensors")
    assert main(["convert", str(tmp_path / "lora.safetensors"), str(tmp_path / "out"), "--to", "pt"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"my.word.v2.pt", ".._x.pt", "xl.pt"}
    assert torch.equal(read_embedding(tmp_path / "out" / "my.word.v2.pt").vectors["text_encoder"], ONE)
    assert set(read_embedding(tmp_path / "out" / "xl.pt").vectors) == {"text_encoder", "text_encoder_2"}
    assert main(["inspect", str(tmp_path / "lora.safetensors"), "--json"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "lora.safetensors")]) == 0
    assert capsys.readouterr().out.count("word: ") == 3
    assert main(["convert", str(tmp_path / "lora.safetensors"), str(tmp_path / "out"), "--to", "pt"]) == 2
    assert capsys.readouterr().err.count("exists already") == 3


def test_a_large_lora_with_many_words(tmp_path):
    """Only the words in a LoRA file are read, not its weights."""
    words, large = save({f"bundle_emb.word{i}.emb_params": ONE + i for i in range(40)}), 2 << 30
    size = int.from_bytes(words[:8], "little")
    table, data = json.loads(words[8 : 8 + size]), words[8 + size :]
    table["lora_unet_x.lora_down.weight"] = {
        "dtype": "U8",
        "shape": [large],
        "data_offsets": [len(data), len(data) + large],
    }
    header = json.dumps(table).encode()
    path = tmp_path / "lora.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    os.truncate(path, path.stat().st_size + large)  # zeros that take no room
    found = read_words(path)[0]
    assert sorted(word.token for word in found) == sorted(f"word{i}" for i in range(40))


def test_a_word_can_be_renamed(tmp_path):
    path = write_embedding(word("sdxl"), tmp_path / "a.safetensors")
    for ending in ENDINGS:
        out = tmp_path / f"b.{ending}"
        assert main(["convert", str(path), str(out), "--token", "other"]) == 0
        assert read_embedding(out).token == "other"
    assert list(load_file(tmp_path / "b.safetensors")) == ["clip_g", "clip_l"]
    assert main(["convert", str(path), str(tmp_path / "new" / "c"), "--to", "pt"]) == 0
    assert (tmp_path / "new" / "c.pt").is_file()
