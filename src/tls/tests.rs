use std::os::unix::fs::PermissionsExt;

use super::*;

/// A directory of its own for one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("postmeter-tls-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self, stem: &str) -> (PathBuf, PathBuf) {
        (self.0.join(format!("{stem}.crt")), self.0.join(format!("{stem}.key")))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_development_certificate_is_made_once_and_its_key_is_private() {
    let directory = Directory::new("made");
    let (cert, key) = directory.files("certs/dev");
    assert!(ensure_development(&cert, &key).unwrap());
    assert!(!ensure_development(&cert, &key).unwrap());
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "P10");
    let info = inspect(&cert, &key).unwrap();
    assert_eq!(info.names, ["localhost", "127.0.0.1", "::1"]);
    CertificateStore::load(&cert, &key).unwrap().server_config().unwrap();
    fs::remove_file(&key).unwrap();
    assert!(matches!(ensure_development(&cert, &key), Err(TlsError::Half { .. })));
}

#[test]
fn p9_each_fault_names_the_file() {
    let directory = Directory::new("faults");
    let (cert, key) = directory.files("a");
    let (other_cert, other_key) = directory.files("b");
    ensure_development(&cert, &key).unwrap();
    ensure_development(&other_cert, &other_key).unwrap();
    let (missing, garbage) = (directory.0.join("missing"), directory.0.join("garbage"));
    fs::write(&garbage, "not PEM").unwrap();
    let table: [(&Path, &Path, &Path); 6] = [
        (&missing, &key, &missing),
        (&cert, &missing, &missing),
        (&garbage, &key, &garbage),
        (&cert, &garbage, &garbage),
        (&cert, &cert, &cert),
        (&cert, &other_key, &other_key),
    ];
    for (cert, key, culprit) in table {
        let error = inspect(cert, key).unwrap_err().to_string();
        assert!(error.contains(&culprit.display().to_string()), "{error}");
    }
    assert!(matches!(inspect(&cert, &other_key), Err(TlsError::Mismatch { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_is_taken_up_and_a_bad_one_is_not() {
    let directory = Directory::new("renewed");
    let (cert, key) = directory.files("live");
    let (new_cert, new_key) = directory.files("new");
    ensure_development(&cert, &key).unwrap();
    ensure_development(&new_cert, &new_key).unwrap();
    let store = CertificateStore::load(&cert, &key).unwrap();
    let before = store.current.load_full();
    let stop = CancellationToken::new();
    let watching = tokio::spawn(Arc::clone(&store).watch(stop.clone()));
    tokio::time::sleep(POLL / 2).await;

    fs::copy(&new_cert, &cert).unwrap();
    tokio::time::sleep(POLL).await;
    assert!(Arc::ptr_eq(&before, &store.current.load_full()), "the key does not match yet");

    fs::copy(&new_key, &key).unwrap();
    tokio::time::sleep(POLL).await;
    assert_ne!(before.cert, store.current.load_full().cert);

    stop.cancel();
    watching.await.unwrap();
}
