"""Which part of a model is on the GPU when, and what is tried when it runs out of memory.

A plan is the set of parts that leave the GPU when their phase is over. A part that stays is moved
there once. Weights never change while clips are made, so that leaving costs nothing but the first
time: the copy in host memory is kept (pinned) and the device's is dropped. When even the transformer
alone does not fit, `STREAMED` is added to the plan: its blocks then pass through two buffers on the
device, the next one copied while one computes.

Parts move in one thread. A thread that decodes beside it enters a phase only under a plan that
`overlaps`, under which nothing moves that the other one needs.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch

from gpu_jobs.cosmos_generate.spec import PARTS
from worldloop.errors import MalformedRecordError

Phase = Literal["upsample", "guard", "encode", "begin", "denoise", "decode"]
STREAMED = "transformer_blocks"
_NEEDS: Mapping[Phase, frozenset[str]] = {
    "upsample": frozenset({"prompt_upsampler"}),
    "guard": frozenset({"guardrail"}),
    "encode": frozenset({"text_encoder"}),
    "begin": frozenset({"tokenizer"}),
    "denoise": frozenset({"transformer", "controlnet"}),
    "decode": frozenset({"tokenizer", "sound_tokenizer"}),
}
_FOLLOWS = {"controlnet": "transformer", "sound_tokenizer": "tokenizer"}
"""Parts that no plan names go where another one goes; all others stay."""

LARGER: Sequence[frozenset[str]] = (
    frozenset(),
    frozenset({"prompt_upsampler"}),
    frozenset({"prompt_upsampler", "guardrail"}),
    frozenset({"prompt_upsampler", "guardrail", "text_encoder"}),
    frozenset({"prompt_upsampler", "guardrail", "text_encoder", "tokenizer"}),
    frozenset(PARTS),
    frozenset({*PARTS, STREAMED}),
)
"""Plans in the order of what they free; the last one streams the transformer."""


def next_plan(plan: Collection[str]) -> tuple[str, ...] | None:
    """The next plan that frees more than a plan; None if it frees all there is.

    Example:
        >>> next_plan(("prompt_upsampler",))
        ('guardrail', 'prompt_upsampler')
        >>> print(next_plan((*PARTS, STREAMED)))
        None
    """
    for larger in LARGER:
        united = larger | set(plan)
        if larger - set(plan):
            return tuple(sorted(united))
    return None


def cap_memory(memory_cap_gb: float, device: Any) -> None:
    """Let this process allocate no more than so much of a GPU; 0 sets no limit.

    Raises:
        MalformedRecordError: If the GPU has less than that.
    """
    device = torch.device(device)
    if not memory_cap_gb or device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if memory_cap_gb * 1e9 > total:
        raise MalformedRecordError(
            "memory_cap_gb", memory_cap_gb, f"at most {total / 1e9:.1f}", "Set 0 for all of it."
        )
    torch.cuda.set_per_process_memory_fraction(memory_cap_gb * 1e9 / total, device)


class Residency:
    """Moves the parts of a loaded model as a plan says.

    Build it after the speed profile has been applied, since that replaces weights.

    Attributes:
        plan: Parts that leave the GPU, sorted; a name of `spec.PARTS` or `STREAMED`.
        device: Where parts compute.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        *,
        device: Any,
        offload: Collection[str] = (),
        memory_cap_gb: float = 0.0,
    ):
        """Keep the parts where they are until the first phase.

        Args:
            parts: Modules by name, e.g. `WorldModel.parts`; those of other names always stay.
            device: torch device.
            offload: The plan.
            memory_cap_gb: Refuse to allocate more than this; 0 is all of it.

        Raises:
            MalformedRecordError: If the plan names no part, or the GPU has less than the cap.
        """
        unknown = sorted(set(offload) - {*PARTS, STREAMED})
        if unknown:
            raise MalformedRecordError(
                "offload plan", unknown, f"parts out of {(*PARTS, STREAMED)}", "Correct the names."
            )
        self.device = torch.device(device)
        self.plan = tuple(sorted(set(offload)))
        self._parts = {name: Parked(part) for name, part in parts.items() if _is_module(part)}
        self._streams: StreamedBlocks | None = None
        self._lock = threading.RLock()
        cap_memory(memory_cap_gb, self.device)

    @property
    def overlaps(self) -> bool:
        """Whether decoding can run beside denoising: neither part waits for the other's memory."""
        return not {"tokenizer", "transformer", STREAMED} & set(self.plan)

    @property
    def present(self) -> frozenset[str]:
        """Names of the parts that are on the device."""
        return frozenset(name for name, part in self._parts.items() if part.present)

    @property
    def guards_between(self) -> bool:
        """Whether video guards leave the device, and so look at clips while nothing is denoised.

        Beside denoising they would come back just when the transformer needs their room; where
        decoding runs beside it, they stay, whatever the plan says.
        """
        return "guardrail" in self._parts and self._leaves("guardrail")

    def enter(self, phase: Phase) -> None:
        """Bring what a phase needs; what it does not need and may leave, leaves first.

        What has come is there for every stream and thread when this returns.
        """
        with self._lock:
            needed = _NEEDS[phase]
            for name, part in self._parts.items():
                if name not in needed and self._leaves(name) and part.present:
                    self._leave(name, part)
            came = [
                self._bring(name, part)
                for name, part in self._parts.items()
                if name in needed or not self._leaves(name)
            ]
            if any(came) and self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()

    def release(self, name: str) -> None:
        """Let a part go for good, e.g. the text encoder when all prompts are encoded.

        Its weights are dropped in host memory, too.
        """
        with self._lock:
            part = self._parts.pop(name, None)
            if part is not None:
                part.drop()
                _empty_cache(self.device)

    def grow(self, *, streams: bool = True) -> tuple[str, ...] | None:
        """Go over to the next larger plan after an out-of-memory error; nothing may be computing.

        Args:
            streams: Whether the transformer's blocks may be streamed, which helps denoising alone.

        Returns:
            The new plan; None, and nothing changed, if there is no larger one.
        """
        with self._lock:
            held = {*self._parts, *_FOLLOWS.values()} | {STREAMED}
            larger = next_plan(self.plan)
            while larger is not None and not (set(larger) - set(self.plan)) & held:
                larger = next_plan(larger)
            if larger is None or (STREAMED in larger and not streams):
                return None
            self.plan = larger
            for name, part in self._parts.items():
                if self._leaves(name):
                    self._leave(name, part)
            _empty_cache(self.device)
            return larger

    def _leaves(self, name: str) -> bool:
        if name == "guardrail" and self.overlaps:
            return False
        return _FOLLOWS.get(name, name) in self.plan

    def _bring(self, name: str, part: "Parked") -> bool:
        """Whether anything was copied."""
        if name == "transformer" and STREAMED in self.plan:
            if self._streams is None:
                part.leave()
                self._streams = StreamedBlocks(part.module, self.device)
                part.forget()
            part.present = True
            return self._streams.bring()
        return part.bring(self.device, pinned=self._leaves(name))

    def _leave(self, name: str, part: "Parked") -> None:
        if name == "transformer" and self._streams is not None:
            self._streams.leave()
            part.present = False
        else:
            part.leave()
        _empty_cache(self.device)


class Parked:
    """A module that comes to the device and leaves it, and then stays in host memory, pinned."""

    def __init__(self, module: Any):
        """Remember a module, which may be on the device already; nothing is copied yet."""
        self.module = module
        self.present = any(tensor.is_cuda for tensor in _tensors(module))
        self._host: list[tuple[Any, torch.Tensor]] = []

    def bring(self, device: torch.device, *, pinned: bool) -> bool:
        """Copy the weights to a device, unless they are there.

        Args:
            device: Where to.
            pinned: Whether to keep a copy in pinned memory, because the part will leave again.

        Returns:
            Whether anything was copied.
        """
        if self.present:
            return False
        if device.type == "cpu":
            self.module.to(device)
        else:
            if pinned:
                self._remember()
            for tensor in _tensors(self.module):
                tensor.data = tensor.data.to(device, non_blocking=True)
        self.present = True
        return True

    def leave(self) -> None:
        """Drop the device's copy; on a CPU there is none."""
        if any(tensor.is_cuda for tensor in _tensors(self.module)):
            self._remember()
            for tensor, host in self._host:
                tensor.data = host
        self.present = False

    def drop(self) -> None:
        """Drop the weights, on the device and in host memory; the module cannot compute any more."""
        self._host = []
        self.module.to("meta")
        self.present = False

    def forget(self) -> None:
        """Let another keep the weights in host memory."""
        self._host = []

    def _remember(self) -> None:
        if not self._host:
            self._host = [(tensor, _pinned(tensor.data)) for tensor in _tensors(self.module)]
            for tensor, host in self._host:
                if not tensor.is_cuda:
                    tensor.data = host


class StreamedBlocks:
    """The blocks of a transformer, passing through two buffers on the device.

    While a block computes, the next one is copied on a stream of its own. Everything that is in no
    block (embeddings, the output layer) stays on the device.
    """

    def __init__(self, transformer: Any, device: torch.device):
        """Pack each block's weights into one pinned buffer in host memory.

        Args:
            transformer: With its blocks in `transformer_blocks` or `layers`, in host memory.
            device: Where they compute.

        Raises:
            MalformedRecordError: If it has no such blocks.
        """
        self.device = device
        self.blocks = list(blocks_of(transformer))
        self._packs = [_Pack(block) for block in self.blocks]
        inside = {id(tensor) for pack in self._packs for tensor in pack.tensors}
        self._rest = [tensor for tensor in _tensors(transformer) if id(tensor) not in inside]
        self._rest_host = [tensor.data for tensor in self._rest]
        self._buffers: list[torch.Tensor] = []
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied: list[Any] = [None, None]
        self._computed: list[Any] = [None, None]
        self._held: list[int | None] = [None, None]
        for index, block in enumerate(self.blocks):
            block.register_forward_pre_hook(self._before(index))
            block.register_forward_hook(self._after(index))

    def bring(self) -> bool:
        """Bring what is in no block, and make the two buffers; whether that was to be done."""
        if self._buffers:
            return False
        for tensor, host in zip(self._rest, self._rest_host, strict=True):
            tensor.data = host.to(self.device, non_blocking=True)
        size = max(pack.size_bytes for pack in self._packs)
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2)]
        return True

    def leave(self) -> None:
        """Drop all that is on the device, once the copy for the next pass has ended."""
        if self._copies is not None:
            self._copies.synchronize()
        for tensor, host in zip(self._rest, self._rest_host, strict=True):
            tensor.data = host
        for pack in self._packs:
            pack.point_to_host()
        self._buffers, self._held = [], [None, None]

    def _before(self, index: int) -> Any:
        def hook(*_: Any) -> None:
            slot = index % 2
            self._copy(index, slot)
            if self._copied[slot] is not None:
                torch.cuda.current_stream(self.device).wait_event(self._copied[slot])
            self._packs[index].point_to(self._buffers[slot])
            if index + 1 < len(self.blocks):
                self._copy(index + 1, 1 - slot)

        return hook

    def _after(self, index: int) -> Any:
        def hook(*_: Any) -> None:
            if self._copies is not None:
                self._computed[index % 2] = torch.cuda.current_stream(self.device).record_event()
            if index + 1 == len(self.blocks):
                self._copy(0, 0)  # for the next pass

        return hook

    def _copy(self, index: int, slot: int) -> None:
        """Start to copy a block into a buffer, once the block that was there has computed."""
        if self._held[slot] == index:
            return
        self._held[slot] = index
        host, buffer = self._packs[index].host, self._buffers[slot]
        if self._copies is None:
            buffer[: len(host)].copy_(host)
            return
        if self._computed[slot] is not None:
            self._copies.wait_event(self._computed[slot])
        with torch.cuda.stream(self._copies):
            buffer[: len(host)].copy_(host, non_blocking=True)
            self._copied[slot] = self._copies.record_event()


class _Pack:
    """A block's weights in one buffer, each at a multiple of 256 bytes."""

    def __init__(self, block: Any):
        self.tensors = list(_tensors(block))
        self._places: list[tuple[int, int, torch.dtype, torch.Size]] = []
        offset = 0
        for tensor in self.tensors:
            size = tensor.numel() * tensor.element_size()
            self._places.append((offset, size, tensor.dtype, tensor.shape))
            offset += -(-size // 256) * 256
        self.size_bytes = offset
        self.host = _pinned(torch.empty(offset, dtype=torch.uint8))
        for tensor, view in zip(self.tensors, self._views(self.host), strict=True):
            view.copy_(tensor.data)
        self.point_to_host()

    def point_to(self, buffer: torch.Tensor) -> None:
        """Let the block read its weights from a buffer."""
        for tensor, view in zip(self.tensors, self._views(buffer), strict=True):
            tensor.data = view

    def point_to_host(self) -> None:
        """Let the block have its weights in host memory."""
        self.point_to(self.host)

    def _views(self, buffer: torch.Tensor) -> Iterator[torch.Tensor]:
        for offset, size, dtype, shape in self._places:
            yield buffer[offset : offset + size].view(dtype).view(shape)


def blocks_of(transformer: Any) -> Any:
    """The repeated blocks of a transformer.

    Raises:
        MalformedRecordError: If it has none that we know.
    """
    for name in ("transformer_blocks", "layers"):
        if hasattr(transformer, name):
            return getattr(transformer, name)
    raise MalformedRecordError(
        "transformer to stream",
        type(transformer).__name__,
        "one with transformer_blocks or layers",
        "Choose an offload plan without " + STREAMED + ".",
    )


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    """Parameters and buffers, each once."""
    seen: set[int] = set()
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory that a GPU can copy from while it computes; without a GPU no copy."""
    if not torch.cuda.is_available():
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


def _is_module(part: Any) -> bool:
    return isinstance(part, torch.nn.Module)


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
