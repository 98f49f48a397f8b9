//! Start and exit code; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(status) = cofferdam::sandbox::supervise::run_if_asked() {
        return ExitCode::from(status as u8);
    }
    ExitCode::SUCCESS
}
