"""The forward pass: one decoder for all families, over the page pool, with every row's own adapter."""

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, silu

from kernels.attention import paged_attention
from kernels.lora import mbgmm
from kernels.paging import write_kv
from worker.memory.layout import GROUPS
from worker.model.batch import ForwardBatch
from worker.model.config import ModelConfig
from worker.model.rope import Rotation, turn
from worker.model.weights import LayerWeights, ModelWeights
from worker.model.workspace import Buffers, Workspace

_QKV, _O, _GATE_UP, _DOWN = GROUPS


class Decoder:
    """A model on one device. A pass leaves nothing to the next but memory: what it remembers is in the pages."""

    def __init__(self, config: ModelConfig, weights: ModelWeights) -> None:
        self._config = config
        self._weights = weights
        self._rotation = Rotation(config.rope, self.dtype, self.device)
        self._workspace = Workspace(config.shape, self.dtype, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights, pages and adapters."""
        return self._weights.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where weights, pages and batches are."""
        return self._weights.embedding.device

    def forward(self, batch: ForwardBatch, pages: Tensor) -> Tensor:
        """Runs the rows of a batch; writes their keys and values to the pages.

        Args:
            batch: The rows.
            pages: The pool, `[num_layers, num_pages, page_elements]`, of the model's dtype and device.

        Returns:
            Logits of `batch.logit_rows`, `[num_logit_rows, vocab_size]` float32.
        """
        with torch.inference_mode():
            hidden = embedding(batch.token_ids, self._weights.embedding)
            angles = self._rotation.angles(batch.positions)
            buffers = self._workspace.buffers(hidden.shape[0])
            for layer, weights in enumerate(self._weights.layers):
                hidden += self._attention(layer, weights, hidden, angles, batch, pages[layer], buffers)
                hidden += self._mlp(layer, weights, hidden, batch, pages[layer], buffers)
            wanted = self._norm(hidden.index_select(0, batch.logit_rows), self._weights.norm)
            return linear(wanted, self._weights.output).float()

    def _attention(
        self,
        layer: int,
        weights: LayerWeights,
        hidden: Tensor,
        angles: tuple[Tensor, Tensor],
        batch: ForwardBatch,
        pages: Tensor,
        buffers: Buffers,
    ) -> Tensor:
        shape = self._config.shape
        num_rotated = shape.num_heads + shape.num_kv_heads
        x = self._norm(hidden, weights.input_norm, buffers.x)
        qkv = weights.qkv(x, buffers.qkv)
        if batch.lora is not None:
            mbgmm(buffers.qkv_columns, x, pages, batch.lora, layer=layer, modules=_QKV)

        heads = qkv.view(-1, num_rotated + shape.num_kv_heads, shape.head_dim)
        rotated = heads[:, :num_rotated]
        if weights.qk_norm is not None:
            rotated = self._norm(rotated, weights.qk_norm)
        rotated = turn(rotated, *angles)  # queries, then keys
        block_size = pages.shape[1] // (2 * shape.num_kv_heads * shape.head_dim)
        write_kv(pages, rotated[:, shape.num_heads :], heads[:, num_rotated:], batch.attention.kv_slots, block_size)
        attended = paged_attention(
            rotated[:, : shape.num_heads],
            pages,
            batch.attention,
            num_kv_heads=shape.num_kv_heads,
            block_size=block_size,
            scale=shape.head_dim**-0.5,
            window=self._config.traits.windows[layer],
        ).flatten(1)
        output = weights.o(attended, buffers.output)
        if batch.lora is not None:
            mbgmm((output,), attended, pages, batch.lora, layer=layer, modules=_O)
        return output

    def _mlp(
        self,
        layer: int,
        weights: LayerWeights,
        hidden: Tensor,
        batch: ForwardBatch,
        pages: Tensor,
        buffers: Buffers,
    ) -> Tensor:
        x = self._norm(hidden, weights.post_attention_norm, buffers.x)
        weights.gate_up(x, buffers.gate_up)
        if batch.lora is not None:
            mbgmm(buffers.gate_up_columns, x, pages, batch.lora, layer=layer, modules=_GATE_UP)
        gate, up = buffers.gate_up_columns
        inner = torch.mul(silu(gate), up, out=buffers.inner)
        output = weights.down(inner, buffers.output)
        if batch.lora is not None:
            mbgmm((output,), inner, pages, batch.lora, layer=layer, modules=_DOWN)
        return output

    def _norm(self, x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """RMSNorm over the last dimension in float32, rounded before the weight is applied, as transformers does."""
        normed = rms_norm(x.float(), x.shape[-1:], None, self._config.norm_epsilon).to(x.dtype)
        return torch.mul(normed, weight, out=out)
