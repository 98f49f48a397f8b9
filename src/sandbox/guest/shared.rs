//! The memory shared with the host and with the other processes of the step.

use super::abi::{BLOCK_SIZE, SHARED_BASE, SHARED_FD, SHARED_SIZE, Shared, StepBlock};
use super::kernel::{self, MAP_FIXED, MAP_SHARED, PROT_READ, PROT_WRITE, Result};
use super::ledger::Ledger;

/// Maps it. Once, before anything else here is used.
pub fn map() -> Result<()> {
    let protection = PROT_READ | PROT_WRITE;
    kernel::mmap(SHARED_BASE, SHARED_SIZE, protection, MAP_SHARED | MAP_FIXED, SHARED_FD, 0)?;
    Ok(())
}

/// What the host says of the step.
pub fn block() -> &'static StepBlock {
    // SAFETY: `map` has mapped it for the life of the process, the host wrote it before the step began, and every
    // pattern of bits is a valid block but for `MountKind`, which only the host writes.
    unsafe { &*(SHARED_BASE as *const StepBlock) }
}

/// The table.
pub fn table() -> &'static Shared {
    // SAFETY: as `block`; all of it is atomics.
    unsafe { &*((SHARED_BASE + BLOCK_SIZE) as *const Shared) }
}

/// The ledger.
pub fn ledger() -> &'static Ledger {
    &table().ledger
}
