//! SIGINT and SIGTERM: the first gives the work up in good order, the second ends the program at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use super::kind::Kind;
use crate::build::request::Cancellation;
use crate::report::{Event, Report};

/// Which signal has come. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// The number of the first; 0 before.
    first: Arc<AtomicU8>,
}

impl Signals {
    /// Listens from now on. Must be called in a runtime.
    ///
    /// # Errors
    /// If the system does not let the program listen.
    pub fn listen(cancellation: &Cancellation, report: &Report) -> io::Result<Self> {
        let signals = Self::default();
        let (first, cancellation, report) = (signals.first.clone(), cancellation.clone(), report.clone());
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            loop {
                let number = tokio::select! {
                    Some(()) = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                    Some(()) = terminate.recv() => SignalKind::terminate().as_raw_value(),
                    else => return,
                };
                let number = u8::try_from(number).unwrap_or_default();
                if first.swap(number, Ordering::AcqRel) != 0 {
                    end_at_once(&report, number);
                }
                let name = crate::report::signal_name(number.into()).unwrap_or("signal");
                report.note(format!(
                    "{name}: giving up what is being done; once more ends the program at once"
                ));
                cancellation.cancel();
            }
        });
        Ok(signals)
    }

    /// The signal that has come, if one has.
    pub fn received(&self) -> Option<u8> {
        Some(self.first.load(Ordering::Acquire)).filter(|number| *number != 0)
    }
}

/// Steps die with their supervisors, which notice that this process is gone; a store survives that at any point.
fn end_at_once(report: &Report, signal: u8) -> ! {
    let status = Kind::Cancelled.status(Some(signal));
    // On a thread of its own: whoever draws may be what does not come to its end.
    let (told, telling) = std::sync::mpsc::channel();
    let report = report.clone();
    std::thread::spawn(move || {
        report.event(Event::Ended { status });
        let _ = told.send(());
    });
    let _ = telling.recv_timeout(std::time::Duration::from_millis(500));
    std::process::exit(i32::from(status))
}
