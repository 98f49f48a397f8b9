//! Programs of the classic BPF machine, put together with labels.

use crate::sandbox::abi::Instruction;

pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
pub(super) const JUMP_ANY_BIT: u16 = 0x45;
pub(super) const RETURN: u16 = 0x06;

/// A place in the program that is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program under construction. Conditional jumps reach 255 instructions only, so they always jump to the next
/// instruction or to an unconditional jump behind it.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Unconditional jumps and the labels they go to.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub(super) fn place(&mut self, label: Label) {
        if let Some(slot) = self.labels.get_mut(label.0) {
            *slot = Some(self.code.len());
        }
    }

    fn emit(&mut self, code: u16, jump_true: u8, jump_false: u8, operand: u32) {
        self.code.push(Instruction { code, jump_true, jump_false, operand });
    }

    pub(super) fn load(&mut self, offset: u32) {
        self.emit(LOAD, 0, 0, offset);
    }

    pub(super) fn answer(&mut self, value: u32) {
        self.emit(RETURN, 0, 0, value);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(JUMP, 0, 0, 0);
    }

    /// Goes to `to` if the comparison holds.
    pub(super) fn jump_if(&mut self, comparison: u16, operand: u32, to: Label) {
        self.emit(comparison, 0, 1, operand);
        self.jump(to);
    }

    /// Goes to `to` unless the comparison holds.
    pub(super) fn jump_unless(&mut self, comparison: u16, operand: u32, to: Label) {
        self.emit(comparison, 1, 0, operand);
        self.jump(to);
    }

    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in &self.jumps {
            let target = self.labels.get(label.0).copied().flatten().unwrap_or(self.code.len());
            if let Some(instruction) = self.code.get_mut(*at) {
                instruction.operand = (target - at - 1) as u32;
            }
        }
        self.code
    }
}
