//! Tests of the room as a whole.

mod findings;
mod oracle;
mod properties;
mod structure;
