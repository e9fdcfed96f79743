//! Arguments in, exit code out: 0 done, 1 not done or something is wrong, 2 bad usage.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use postmeter::cli::{self, Command, CommandLine, Errand, Place};
use postmeter::clock::Clock;
use postmeter::crash::{self, CrashAt};
use postmeter::{app, telemetry};

/// How long what is still being worked out on other threads keeps the process at its end.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(run(line));
        // A translation that nobody waits for any more cannot be interrupted, only left behind.
        runtime.shutdown_timeout(LEFT_BEHIND);
        done
    });
    done.unwrap_or_else(|error| {
        complain(&cli::one_line(&error));
        ExitCode::FAILURE
    })
}

async fn run(line: CommandLine) -> anyhow::Result<ExitCode> {
    telemetry::init(line.log_format, environment("RUST_LOG").as_deref())?;
    let config_path = line.config.as_deref();
    match line.command {
        Command::Sandbox(args) => {
            if config_path.is_some() {
                complain("the sandbox needs no configuration; --config is not used");
            }
            app::sandbox(args).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve => {
            let (config, secrets) = cli::serve_settings(config_path, environment)?;
            let crash_at = CrashAt::parse(environment(crash::VARIABLE).as_deref())?;
            app::serve(config, secrets, crash_at).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Errand(errand) => {
            let place = Place { config_path, environment: &environment, clock: Clock::system(), ask: &ask };
            run_errand(errand, &place).await
        }
    }
}

async fn run_errand(errand: Errand, place: &Place<'_>) -> anyhow::Result<ExitCode> {
    let printout = cli::run(errand, place).await?;
    print(&printout.text).context("cannot write the answer to stdout")?;
    Ok(if printout.is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whoever reads us may have read enough: `postmeter customer list | head` is no error.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Asks the person at the terminal, if there is one; anything but yes is no.
fn ask(question: &str) -> Option<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return None;
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Where stderr is gone too, nobody is left to tell.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "postmeter: {text}");
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
