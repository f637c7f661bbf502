"""llama.cpp's own HTTP server with a language model of one layer and random weights."""

import re
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

_WIDTH, _HIDDEN, _HEADS, _CONTEXT = 32, 64, 2, 16_384
_SPECIAL = ["<unk>", "<s>", "</s>"]
# A blank and a line break are written so in GPT-2's alphabet of bytes. Capitals and most punctuation are missing, and
# skipped where a prompt has them: with few tokens a string that is drawn at random ends soon.
_CHARACTERS = [*'abcdefghijklmnopqrstuvwxyz0123456789_{}[]:,."', "Ġ", "Ċ"]
_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


def write_model(path: Path) -> Path:
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


class LlamaCpp:
    """A running server on a free port of this machine; it ends with the object.

    Args:
        folder: where its model is written.
    """

    def __init__(self, folder: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(write_model(folder / "tiny.gguf"))
        params.n_ctx, params.n_parallel, params.port = _CONTEXT, 2, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_prompt, params.endpoint_metrics = False, True
        self._server = xllamacpp.Server(params)
        self.base_url = f"{self._server.listening_address}/v1"

    def tokens(self) -> tuple[int, int]:
        """Tokens read and written, by the server's own count."""
        metrics = self._server.handle_metrics()
        read, written = (
            re.search(rf"^llamacpp:{name}_total (\d+)", metrics, re.MULTILINE)
            for name in ("prompt_tokens", "tokens_predicted")
        )
        assert read is not None and written is not None
        return int(read[1]), int(written[1])
