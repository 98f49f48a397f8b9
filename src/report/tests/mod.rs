//! Reporters, given a build that was written down, with a clock that says what the test says.

mod emulator;
mod script;
mod shown;
mod terminal;
