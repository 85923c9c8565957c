//! Progress on standard error, where it takes longer than two seconds; and whether somebody wants it to stop.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is quicker shows nothing.
const QUIET: Duration = Duration::from_secs(2);

/// A bar that appears when it is needed, and a flag that Ctrl-C raises.
pub(super) struct Progress {
    begin: Instant,
    bar: Option<ProgressBar>,
    stop: Stop,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { begin: Instant::now(), bar: None, stop: Stop::listen() }
    }

    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Shows a step; an error where somebody wants it to stop.
    pub(super) fn show(&mut self, step: lab::Step) -> lab::Result<()> {
        if self.stop.wanted() {
            return Err(lab::Error::Interrupted);
        }
        if self.begin.elapsed() > QUIET {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_length(step.all as u64);
            bar.set_position(step.done as u64);
            bar.set_message(step.what);
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Raised by Ctrl-C and by a request to terminate, so that what was made is taken down in order.
#[derive(Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    fn listen() -> Stop {
        use tokio::signal::unix::{SignalKind, signal};
        let raised = Arc::new(AtomicBool::new(false));
        let flag = raised.clone();
        std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let (Ok(mut interrupt), Ok(mut terminate)) =
                    (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
                else {
                    return;
                };
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    flag.store(true, Ordering::Relaxed);
                }
            });
        });
        Stop(raised)
    }

    pub(super) fn wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
