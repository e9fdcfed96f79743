//! The directory that an installation has for itself, and that one process has at a time.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::Context;

use crate::store;

/// The lock that keeps a second process off.
const LOCK_FILE: &str = "postmeter.lock";

/// Makes the directory, if there is none, and takes it until the file is dropped: whoever
/// serves it, or moves it away, is alone there.
pub fn lock(data_dir: &Path) -> anyhow::Result<File> {
    store::make_private_dir(data_dir)
        .with_context(|| format!("the directory {} cannot be made", data_dir.display()))?;
    let path = data_dir.join(LOCK_FILE);
    let file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!(
                "another postmeter is running on {}; stop it, or use another data_dir",
                data_dir.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).context(format!("{} cannot be locked", path.display())),
    }
}
