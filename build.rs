//! Build script: compiles the freestanding sandbox guest that the binary embeds.

fn main() {}
