use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A directory of a test's own.
struct Desk(PathBuf);

impl Desk {
    fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("postmeter-env-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("postmeter.env")
    }

    fn with(text: &str) -> Self {
        let desk = Self::new();
        fs::write(desk.file(), text).unwrap();
        desk
    }

    fn names(&self) -> Vec<String> {
        let found = fs::read_dir(&self.0).unwrap();
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn p10_a_new_file_is_for_its_owner_only_and_nothing_else_is_left() {
    let desk = Desk::new();
    let mut file = EnvFile::read(&desk.file()).unwrap();
    assert!(file.set(&Setting::new("BASE_URL", "https://mail.example.com")).unwrap());
    assert!(file.write().unwrap());
    assert_eq!(mode(&desk.file()), 0o600);
    assert_eq!(desk.names(), ["postmeter.env"]);
    let text = fs::read_to_string(desk.file()).unwrap();
    assert_eq!(text, format!("{HEAD}\nBASE_URL=https://mail.example.com\n"));
    let again = EnvFile::read(&desk.file()).unwrap();
    assert!(!again.write().unwrap(), "it is as it should be");
}

#[test]
fn what_a_person_wrote_stays_and_a_wide_mode_does_not() {
    let text =
        "# mine\n\nexport RESEND_API_KEY='re_x y'\nBASE_URL=\"https://a.example/\"\nodd line\n  two\"\n";
    let desk = Desk::with(text);
    let link = desk.0.join("link.env");
    symlink(desk.file(), &link).unwrap();
    let mut file = EnvFile::read(&link).unwrap();
    assert_eq!(file.value("RESEND_API_KEY").as_deref(), Some("re_x y"));
    assert!(!file.set(&Setting::new("BASE_URL", "https://a.example")).unwrap(), "the same");
    assert!(file.set(&Setting::new("PLAN_PRODUCT_ID", "pdt_1")).unwrap());
    assert!(file.write().unwrap());
    assert_eq!(fs::read_to_string(desk.file()).unwrap(), format!("{text}PLAN_PRODUCT_ID=pdt_1\n"));
    assert_eq!(mode(&desk.file()), 0o600, "P10");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "a link stays one");
    fs::set_permissions(desk.file(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(EnvFile::read(&desk.file()).unwrap().write().unwrap(), "for its mode alone");
    assert_eq!(mode(&desk.file()), 0o600, "P10");
}

#[test]
fn a_value_is_absent_the_same_or_different() {
    let desk = Desk::new();
    let secret = desk.0.join("key.txt");
    fs::write(&secret, "dodo_test_1\n").unwrap();
    let text = format!(
        "DODO_PAYMENTS_API_KEY_FILE={}\nBASE_URL=https://old.example\nBASE_URL=https://a.example\n\
         DODO_WEBHOOK_KEY=whsec_bmV3,whsec_b2xk\nPLAN_PRODUCT_ID=\n# TOPUP_PRODUCT_ID=pdt_2\n\
         CREDIT_ENTITLEMENT_ID=cde_1\nCREDIT_ENTITLEMENT_ID_FILE=/nowhere\n",
        secret.display()
    );
    fs::write(desk.file(), text).unwrap();
    let file = EnvFile::read(&desk.file()).unwrap();
    let table = [
        ("DODO_PAYMENTS_API_KEY", "dodo_test_1", Standing::Same),
        ("DODO_PAYMENTS_API_KEY", "dodo_test_2", Standing::Different),
        ("BASE_URL", "https://a.example", Standing::Same),
        ("BASE_URL", "https://old.example", Standing::Different),
        ("DODO_WEBHOOK_KEY", "whsec_b2xk", Standing::Same),
        ("DODO_WEBHOOK_KEY", "whsec_b2", Standing::Different),
        ("PLAN_PRODUCT_ID", "pdt_1", Standing::Absent),
        ("TOPUP_PRODUCT_ID", "pdt_2", Standing::Absent),
        ("CREDIT_ENTITLEMENT_ID", "cde_1", Standing::Different),
    ];
    for (name, value, want) in table {
        assert_eq!(file.standing(&Setting::new(name, value)), want, "{name}={value}");
    }
}

#[test]
fn what_is_overwritten_says_it_once_and_in_its_place() {
    let desk = Desk::with("A=1\nBASE_URL=https://x.example\nB=2\nBASE_URL_FILE=/x\nBASE_URL=\n");
    let mut file = EnvFile::read(&desk.file()).unwrap();
    assert!(file.set(&Setting::new("BASE_URL", "https://y.example")).unwrap());
    file.write().unwrap();
    assert_eq!(fs::read_to_string(desk.file()).unwrap(), "A=1\nBASE_URL=https://y.example\nB=2\n");
    let mut file = EnvFile::read(&desk.file()).unwrap();
    let by_file = Setting { from_file: Some("/run/my keys/k".to_owned()), ..Setting::new("BASE_URL", "z") };
    assert!(file.set(&by_file).unwrap());
    file.write().unwrap();
    assert_eq!(fs::read_to_string(desk.file()).unwrap(), "A=1\nBASE_URL_FILE='/run/my keys/k'\nB=2\n");
}

#[test]
fn what_a_person_changes_meanwhile_is_not_lost() {
    let desk = Desk::with("A=1\n");
    let mut file = EnvFile::read(&desk.file()).unwrap();
    let mut new = EnvFile::read(&desk.0.join("new.env")).unwrap();
    for (file, path) in [(&mut file, desk.file()), (&mut new, desk.0.join("new.env"))] {
        file.set(&Setting::new("BASE_URL", "https://x.example")).unwrap();
        fs::write(&path, "A=2\n").unwrap();
        let error = file.write().unwrap_err().to_string();
        assert!(error.contains("was changed while this ran"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=2\n");
    }
}

#[test]
fn whether_it_can_be_written_is_known_without_a_trace() {
    let desk = Desk::with("A=1\n");
    EnvFile::read(&desk.file()).unwrap().is_writable().unwrap();
    assert_eq!(
        (desk.names(), fs::read_to_string(desk.file()).unwrap()),
        (vec!["postmeter.env".to_owned()], "A=1\n".to_owned())
    );
    fs::write(desk.0.join(".postmeter.env.new"), "of a killed run").unwrap();
    EnvFile::read(&desk.file()).unwrap().is_writable().unwrap();
    assert_eq!(desk.names(), ["postmeter.env"], "P10: what a killed run left goes with the next");
    let nowhere = EnvFile::read(&desk.0.join("none").join("env")).unwrap();
    assert!(nowhere.is_writable().unwrap_err().to_string().contains("none/env"));
}

#[test]
fn a_value_that_readers_would_take_differently_is_not_written() {
    for value in ["", "it's", "two\nlines"] {
        let mut file = EnvFile::read(&Desk::new().file()).unwrap();
        let error = file.set(&Setting::new("DODO_PAYMENTS_API_KEY", value)).unwrap_err();
        assert!(error.to_string().contains("DODO_PAYMENTS_API_KEY"), "{error}");
        assert!(value.is_empty() || !error.to_string().contains(value), "P10");
    }
    assert_eq!(word("X", "$HOME #1").unwrap(), "'$HOME #1'");
}
