//! The program's own faults: told through the report, so that they neither tear what is drawn nor break JSON.
//!
//! A panic may come while the very thread holds a reporter's lock, so its hook only takes note; another thread tells,
//! as soon as the lock is free. What nobody has told by the end becomes part of the failure.

use std::panic::PanicHookInfo;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::report::Report;

/// What has not been told yet. The hook of a process is one, and so is this.
static UNTOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Tells of panics to `report` from now on.
pub fn tell_to(report: &Report) {
    let report = report.clone();
    std::panic::set_hook(Box::new(move |info| {
        untold().push(describe(info));
        let report = report.clone();
        // Where there is no thread to be had, the end tells.
        let _ = std::thread::Builder::new().name("panic".to_owned()).spawn(move || {
            for text in take() {
                report.warn_with(text, "this is a fault of cofferdam, please report it");
            }
        });
    }));
}

/// What has not been told yet, which the caller tells.
pub fn take() -> Vec<String> {
    std::mem::take(&mut *untold())
}

fn untold() -> MutexGuard<'static, Vec<String>> {
    UNTOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place =
        info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    let what = info.payload_as_str().unwrap_or("no reason was given");
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    format!("internal error{place} (thread `{name}`): {what}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::{Event, Reporter};

    /// Panics while it holds its lock, like a reporter with a fault.
    #[derive(Debug, Default, Clone)]
    struct Faulty(Arc<Mutex<Vec<String>>>);

    impl Reporter for Faulty {
        fn event(&self, event: Event) {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Note { text } => panic!("{text}"),
                Event::Warning { text, .. } => told.push(text),
                _ => {}
            }
        }
    }

    #[test]
    fn a_panic_inside_of_a_reporter_is_told() {
        let reporter = Faulty::default();
        let before = std::panic::take_hook();
        let report = Report::new(reporter.clone());
        tell_to(&report);
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| report.note("off the rails")));
        for _ in 0..1000 {
            if !reporter.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::panic::set_hook(before);
        assert!(panicked.is_err());
        let told = reporter.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
        assert!(told.contains("off the rails") && told.contains("panics.rs:"), "{told}");
    }
}
