//! The folder of a test run: data of its servers and where they listen. The first process of the run
//! that comes here starts a watchdog, which waits for the runner to go away, then ends the shared
//! servers and removes the folder. So nothing is left behind, however a run ends.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::process::{PATIENCE, until};

/// What shared servers and some private ones need, with room to spare.
const ROOM_BYTES: u64 = 3 << 30;
const IN_MEMORY: &str = "/dev/shm";

/// Waits for `$1` to end, kills what has a `.pid` file in `$2`, and removes `$2` and `$3`. PostgreSQL
/// is told to quit, because it leaves System V segments behind when it is killed.
const WATCHDOG: &str = r#"
while kill -0 "$1" 2>/dev/null; do sleep 0.2; done
for file in "$2"/*.pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    case "$file" in
        */postgres.pid) kill -QUIT "$pid" ;;
        *) kill -KILL "$pid" ;;
    esac
    rounds=0
    while kill -0 "$pid" 2>/dev/null && [ "$rounds" -lt 50 ]; do
        rounds=$((rounds + 1))
        sleep 0.1
    done
done
rm -rf "$2" "$3"
"#;

/// The folders of this run.
#[derive(Debug)]
pub struct Run {
    /// Locks, and what the tests tell each other.
    folder: PathBuf,
    /// Data of servers, in memory where there is room.
    data: PathBuf,
}

/// Held by the one test that may change something in the run's folder.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "the lock ends with the file")] File);

impl Run {
    /// The folder of this run, made by whoever comes first.
    pub async fn get() -> Self {
        let name = format!("im-tests-{}", id());
        let folder = std::env::temp_dir().join(&name);
        make(&folder);
        let noted = folder.join("data");
        let _turn = lock(&folder, "run").await;
        let data = match fs::read_to_string(&noted) {
            Ok(path) => PathBuf::from(path),
            Err(_) => {
                let data = place(&folder).join(format!("{name}-data"));
                make(&data);
                watch(&folder, &data);
                fs::write(&noted, data.as_os_str().as_encoded_bytes()).expect("note the place");
                data
            }
        };
        Self { folder, data }
    }

    /// Waits until nobody else of this run works on `what`.
    pub async fn turn(&self, what: &str) -> Turn {
        Turn(lock(&self.folder, what).await)
    }

    /// A file in which tests tell each other something.
    pub fn note(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a server keeps its data.
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// Under nextest every test is a process of its own, and the run has an id; else the process is the
/// run.
fn id() -> String {
    std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string())
}

/// Whose end is the end of the run.
fn runner() -> u32 {
    match std::env::var_os("NEXTEST_RUN_ID") {
        Some(_) => std::os::unix::process::parent_id(),
        None => std::process::id(),
    }
}

/// Memory where there is enough, else the disk.
fn place(folder: &Path) -> PathBuf {
    let room = rustix::fs::statvfs(IN_MEMORY).map(|fs| fs.f_bavail * fs.f_frsize);
    match room {
        Ok(room) if room >= ROOM_BYTES => PathBuf::from(IN_MEMORY),
        _ => folder.parent().expect("it is in a folder").into(),
    }
}

/// Makes a folder that the user `postgres` may pass through.
fn make(folder: &Path) {
    fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let _not_ours = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
}

#[expect(
    clippy::zombie_processes,
    reason = "it outlives this process, so nobody waits for it"
)]
fn watch(folder: &Path, data: &Path) {
    let mut watchdog = Command::new("sh");
    watchdog
        .args(["-c", WATCHDOG, "watchdog", &runner().to_string()])
        .args([folder, data])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _running = watchdog.spawn().expect("sh runs");
}

/// Asks again and again, because a thread that waits in the lock would hold up its runtime.
async fn lock(folder: &Path, what: &str) -> File {
    let path = folder.join(format!("{what}.lock"));
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    until(
        what,
        PATIENCE * 2,
        Duration::from_millis(5),
        async || match file.try_lock() {
            Ok(()) => Some(()),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => panic!("{}: {error}", path.display()),
        },
    )
    .await;
    file
}
