"""How far a scan goes before it says that a file is too much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one file; what lies beyond them is not examined, or is a finding.

    Attributes:
        depth: how deep archives and pickles may be nested in one another.
        members: of all archives in a file together.
        member_ratio: how many times its stored size a member may expand to; beyond is a bomb.
        ratio_from_bytes: members that expand to less are no bomb, whatever the ratio: small things compress well.
        blank_bytes: arrays (`.npy`) of all archives in a file that expand to less together are no bomb either: blank
            images and masks compress a thousandfold, and of an array no more than its header is unpacked.
        member_bytes: the largest compressed member that is unpacked, in memory; half as much a level deeper.
            Stored members are read in place, whatever their size.
        expanded_bytes: of all that is unpacked together.
        pickle_opcodes: followed in all pickles together; about five seconds.
        protobuf_fields: read of an ONNX model.
        header_bytes: the largest header of a safetensors file that is read. The library takes 100 MB; a header of
            10 MB names some 100,000 tensors.
        json_bytes: the largest JSON document that is parsed.
        json_depth: how deep its lists and objects may be nested.
        text_bytes: how much of a text, a program or a TorchScript source is read.
        searched_bytes: how much of a text is searched for tags of YAML, stretch by stretch.
        findings: kept of one file.
        files: in a folder.
        seconds: for one file; a last resort, as the others are reached first.
    """

    depth: int = 5
    members: int = 50_000
    member_ratio: int = 100
    ratio_from_bytes: int = 4 << 20
    blank_bytes: int = 256 << 20
    member_bytes: int = 64 << 20
    expanded_bytes: int = 512 << 20
    pickle_opcodes: int = 4_000_000
    protobuf_fields: int = 2_000_000
    header_bytes: int = 20 << 20
    json_bytes: int = 20 << 20
    json_depth: int = 100
    text_bytes: int = 4 << 20
    searched_bytes: int = 64 << 20
    findings: int = 200
    files: int = 100_000
    seconds: float = 60.0

    def unpacked_bytes(self, depth: int) -> int:
        """The largest member that is unpacked at a level of nesting, so that all levels together stay small."""
        return self.member_bytes >> min(depth, 20)


LIMITS = Limits()
"""The defaults."""
