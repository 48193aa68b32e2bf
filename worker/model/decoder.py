"""The forward pass: one decoder for all families, over the page pool, with every row's own adapter."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import embedding

from kernels.activation import silu_mul
from kernels.attention import paged_attention
from kernels.linear import linear
from kernels.lora import LoraBatch, LoraDelta
from kernels.norm import add_rms_norm, gather_rms_norm, rms_norm
from kernels.rope import rotate_and_write
from worker.memory.layout import GROUPS
from worker.model.batch import ForwardBatch
from worker.model.config import ModelConfig
from worker.model.rope import Rotation
from worker.model.weights import ModelWeights
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

    def shortened(self) -> "Decoder":
        """A decoder of the fewest of this one's layers that, with the same batches, launch all kernels that this does.

        A step's first layer is followed by its others in other ways than these by each other, which differ by windows,
        and its last may have fewer rows.
        """
        windows = self._config.traits.windows
        layers = sorted({0, *(windows.index(window, 1) for window in windows[1:]), len(windows) - 1})
        traits = replace(self._config.traits, windows=tuple(windows[layer] for layer in layers))
        weights = replace(self._weights, layers=tuple(self._weights.layers[layer] for layer in layers))
        return Decoder(replace(self._config, traits=traits), weights)

    def new_logits(self, num_rows: int) -> Tensor:
        """Memory for the logits of so many rows."""
        output = self._weights.output
        return torch.empty(num_rows, output.shape[0], dtype=output.dtype, device=output.device)

    def forward(self, batch: ForwardBatch, pages: Tensor, logits: Tensor | None = None) -> Tensor:
        """Runs the rows of a batch; writes their keys and values to the pages.

        Args:
            batch: The rows.
            pages: The pool, `[num_layers, num_pages, page_elements]`, of the model's dtype and device.
            logits: Memory for the result, of `new_logits`; None: new memory.

        Returns:
            Logits of `batch.logit_rows`, `[num_logit_rows, vocab_size]` of the model's dtype.
        """
        layers, epsilon = self._weights.layers, self._config.norm_epsilon
        with torch.inference_mode():
            hidden = embedding(batch.token_ids, self._weights.embedding)
            turns = self._rotation.angles(batch.positions)
            buffers = self._workspace.buffers(hidden.shape[0])
            x = rms_norm(hidden, layers[0].input_norm, epsilon, buffers.x)
            lora = batch.lora
            for layer, weights in enumerate(layers):
                attended = self._attention(layer, x, turns, batch, pages[layer], buffers)
                if batch.is_narrow and layer + 1 == len(layers):
                    attended, hidden = attended[batch.logit_rows], hidden[batch.logit_rows]
                    lora, buffers = batch.logit_lora, self._workspace.buffers(hidden.shape[0])
                update, delta = self._output(layer, attended, lora, pages[layer], buffers)
                x = add_rms_norm(hidden, update, weights.post_attention_norm, epsilon, buffers.x, delta)
                update, delta = self._mlp(layer, x, lora, pages[layer], buffers)
                if layer + 1 < len(layers):
                    x = add_rms_norm(hidden, update, layers[layer + 1].input_norm, epsilon, buffers.x, delta)
            if batch.is_narrow:
                wanted = add_rms_norm(hidden, update, self._weights.norm, epsilon, buffers.x, delta)
            else:
                wanted = gather_rms_norm(hidden, update, batch.logit_rows, self._weights.norm, epsilon, delta)
            logits = self.new_logits(wanted.shape[0]) if logits is None else logits
            return linear(wanted, self._weights.output, logits, chained=True)

    def _attention(
        self,
        layer: int,
        x: Tensor,
        turns: tuple[Tensor, Tensor],
        batch: ForwardBatch,
        pages: Tensor,
        buffers: Buffers,
    ) -> Tensor:
        """Each row's values, of all heads, as it attends to them; `[num_rows, num_heads * head_dim]`."""
        shape, weights = self._config.shape, self._weights.layers[layer]
        qkv = buffers.qkv
        delta = weights.qkv.with_adapters(x, qkv, buffers.qkv_columns, pages, batch.lora, layer, _QKV)
        block_size = pages.shape[1] // (2 * shape.num_kv_heads * shape.head_dim)
        query = rotate_and_write(
            qkv,
            turns,
            pages,
            batch.attention.kv_slots,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            block_size=block_size,
            head_norm=weights.qk_norm,
            epsilon=self._config.norm_epsilon,
            delta=delta,
        )
        return paged_attention(
            query,
            pages,
            batch.attention,
            num_kv_heads=shape.num_kv_heads,
            block_size=block_size,
            scale=shape.head_dim**-0.5,
            window=self._config.traits.windows[layer],
        ).flatten(1)

    def _output(
        self, layer: int, attended: Tensor, lora: LoraBatch | None, pages: Tensor, buffers: Buffers
    ) -> tuple[Tensor, LoraDelta | None]:
        """What attention adds to the hidden state, and what adapters have yet to add to that."""
        projection, output = self._weights.layers[layer].o, buffers.output
        return output, projection.with_adapters(attended, output, (output,), pages, lora, layer, _O)

    def _mlp(
        self, layer: int, x: Tensor, lora: LoraBatch | None, pages: Tensor, buffers: Buffers
    ) -> tuple[Tensor, LoraDelta | None]:
        """As `_output`, of the gated layers."""
        weights = self._weights.layers[layer]
        gate_up, output = buffers.gate_up, buffers.output
        if lora is None or lora.modules.isdisjoint(_GATE_UP):
            inner = weights.gate_up.gated(x, gate_up, buffers.inner)
        else:
            columns = buffers.gate_up_columns
            delta = weights.gate_up.with_adapters(x, gate_up, columns, pages, lora, layer, _GATE_UP)
            inner = silu_mul(gate_up, buffers.inner, delta)
        return output, weights.down.with_adapters(inner, output, (output,), pages, lora, layer, _DOWN)
