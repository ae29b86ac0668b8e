"""Makes a tiny model that vLLM serves and that says its own name: asked "i am", it goes on with " NAME". About 1 MB.

usage: make_model.py DIRECTORY NAME        (run by the interpreter of vLLM's venv)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

STEPS = 60
"""Of training on one sentence; far more than two layers need to learn it by heart."""
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def tokenizer(sentence: str) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator([sentence] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make(directory: Path, name: str) -> None:
    logging.disable_progress_bar()
    torch.manual_seed(1)
    sentence = f"i am {name} and i live in the slot"
    words = tokenizer(sentence)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    learn(model, torch.tensor([words(sentence)["input_ids"]]))
    model.to(torch.bfloat16).save_pretrained(directory)
    words.save_pretrained(directory)


def learn(model: LlamaForCausalLM, ids: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
    if loss.item() > 0.1:
        raise SystemExit(f"the model has not learnt its sentence: loss {loss.item():.2f}")


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2])
