//! Children of the bench: they end with it, and waiting for them is bounded.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;

/// How long a child may take to start, to do what it was asked or to stop.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A child that is killed when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a server and returns what follows `ready ` on its standard output, of which the
    /// rest is read and thrown away.
    pub(crate) async fn serve(command: &mut Command) -> Result<(Self, String)> {
        let mut this = Self(command.stdout(Stdio::piped()).spawn().with_context(|| name(command))?);
        let stdout = this.0.stdout.take().context("stdout")?;
        let (found, ready) = oneshot::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            if let Some(line) = lines.find(|line| line.starts_with("ready ")) {
                let _ = found.send(line.trim_start_matches("ready ").to_owned());
            }
            lines.for_each(drop);
        });
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Ok(ready)) => Ok((this, ready)),
            Ok(Err(_)) => bail!("it ended before it was ready"),
            Err(_) => bail!("it was not ready after {} s", PATIENCE.as_secs()),
        }
    }

    /// Runs a command to its end and returns what it printed.
    pub(crate) async fn run(command: &mut Command, patience: Duration) -> Result<(ExitStatus, String)> {
        let mut this = Self(command.stdout(Stdio::piped()).spawn().with_context(|| name(command))?);
        let mut stdout = this.0.stdout.take().context("stdout")?;
        let reader = std::thread::spawn(move || {
            let mut printed = Vec::new();
            stdout.read_to_end(&mut printed).map(|_| String::from_utf8_lossy(&printed).trim().to_owned())
        });
        let status = this.wait(patience).await?;
        let printed = reader.join().ok().context("reading what it printed")??;
        Ok((status, printed))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end, in bounded time.
    pub(crate) async fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if begin.elapsed() > patience {
                bail!("it did not end in {} s", patience.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Without its environment, which holds keys.
fn name(command: &Command) -> String {
    command.get_program().display().to_string()
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
