//! What a system call means under a given identity: plain functions, apart from how calls are intercepted.
//!
//! A step believes that it is root (or the `USER` of its image) on its own machine. Every real file belongs to
//! one unprivileged user, so the kernel cannot answer "may this identity do this?"; these functions can. They
//! follow the kernel's own rules: credentials(7), capabilities(7), path_resolution(7), inode(7).
//!
//! This module is compiled twice: into the library, where its tests run, and into the freestanding guest. It
//! therefore uses `core` only and never allocates.

pub mod access;
pub mod credentials;
pub mod mode;
