//! `mcp-edge`: reads its settings, serves until it is told to stop, drains, exits.
//!
//! Exit codes: 0 served and drained, or the check was good · 1 could not start, or the check was not · 2 the
//! settings are wrong.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use edge::app::{App, Reload, Stop, dry_run};
use edge::config::{self, Command, Config};
use edge::ops::busy_poll::BusyPoll;
use edge::ops::check::Target;
use edge::ops::log::Log;
use edge::ops::visit::Visit;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

// The C library's allocator returns memory late under many small allocations from several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Where the kernel gives huge pages to everybody (`always`), each counts as used to its last byte: 16 KiB more for
    // each idle session. A kernel that has no such switch has none of this to save either. Local servers inherit it.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let outcome = match config::load(std::env::args_os(), variable) {
        Ok(Command::Serve(config)) => logging(*config, serve),
        Ok(Command::DryRun(config)) => logging(*config, try_all),
        Ok(Command::CheckHealth(target)) => check(&target),
        Ok(Command::Check(visit)) => pay(&visit),
        Ok(Command::Print(text)) => {
            say(&mut std::io::stdout(), text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            say(&mut std::io::stderr(), &error.to_string());
            return ExitCode::from(2);
        }
    };
    outcome.unwrap_or_else(|error| {
        say(&mut std::io::stderr(), &format!("mcp-edge: {error:#}"));
        ExitCode::FAILURE
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs it with a log; what went wrong is said after what was logged.
fn logging(
    config: Config,
    run: impl FnOnce(Config, &Log) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let log = Log::start(&config.log)?;
    Ok(run(config, &log).unwrap_or_else(|error| {
        log.say(&format!("mcp-edge: {error:#}"));
        ExitCode::FAILURE
    }))
}

fn serve(config: Config, log: &Log) -> anyhow::Result<ExitCode> {
    let busy_poll = BusyPoll::new(config.busy_poll);
    let runtime = serving(config.threads, &busy_poll)?;
    let served = runtime.block_on(async {
        let outlives = ignores_hangup();
        let (mut terminate, mut interrupt, mut hangup) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        );
        let (has_file, asked) = (!config.files.files().is_empty(), Arc::new(Notify::new()));
        let load = Box::new(|| config::load_again(std::env::args_os(), variable));
        let reload = Reload { load, asked: asked.clone() };
        let stop = async || {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return Stop::Terminate,
                    _ = interrupt.recv() => return Stop::Interrupt,
                    _ = hangup.recv() => match (has_file, outlives) {
                        (true, _) => asked.notify_one(),
                        (false, true) => tracing::info!("SIGHUP: there is no configuration file to read again"),
                        // There is nothing to read again: the terminal was closed.
                        (false, false) => return Stop::Interrupt,
                    },
                }
            }
        };
        App::bind(config, busy_poll, log.metrics()).await?.run(stop, reload).await;
        Ok(ExitCode::SUCCESS)
    });
    // Tasks that are left behind are dropped, and local servers of theirs killed. Nobody can take back a read of standard
    // input that waits for a line; it must not hold the process.
    runtime.shutdown_timeout(LAST_DROPS);
    served
}

/// Whether this process was started so that it outlives its terminal, as by nohup. Read this before installing the signal handler.
// proc(5): a mask in hexadecimal, whose lowest bit is signal 1, SIGHUP
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

/// Dropping takes no time; this is for a busy machine.
const LAST_DROPS: Duration = Duration::from_millis(500);

/// What a server says on its standard error is often why it does not answer, so it is logged before the report.
fn try_all(config: Config, log: &Log) -> anyhow::Result<ExitCode> {
    let (report, all_answered) = runtime(config.threads)?.block_on(dry_run(config));
    log.end();
    say(&mut std::io::stdout(), report.trim_end());
    Ok(if all_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(target: &Target) -> anyhow::Result<ExitCode> {
    match runtime(1)?.block_on(target.ask()) {
        Ok(word) => {
            say(&mut std::io::stdout(), &word);
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => Err(anyhow::anyhow!(why)),
    }
}

fn pay(visit: &Visit) -> anyhow::Result<ExitCode> {
    let found = runtime(1)?.block_on(visit.pay(&mut |line| say(&mut std::io::stdout(), &line)));
    found
        .map(|()| {
            say(&mut std::io::stdout(), "All well.");
            ExitCode::SUCCESS
        })
        .map_err(anyhow::Error::from)
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// The runtime of a process that serves; it looks for more before it sleeps.
fn serving(threads: usize, busy_poll: &BusyPoll) -> std::io::Result<Runtime> {
    let busy_poll = busy_poll.clone();
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().on_thread_park(move || busy_poll.parks()).build()
}

fn say(to: &mut impl Write, text: &str) {
    // Whoever closed our output does not want to hear that either.
    let _ = writeln!(to, "{text}");
}
