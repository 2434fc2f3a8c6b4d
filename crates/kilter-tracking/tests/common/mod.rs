//! The store that a test works with: in SQLite, or in a database of PostgreSQL of its own where `KILTER_TEST_POSTGRES` says the address of a server
//! (`crosscheck/with_postgres` starts one).

use std::path::Path;

use kilter_tracking::{Result, Tracking};

/// What says that tests are on PostgreSQL.
pub const SERVER: &str = "KILTER_TEST_POSTGRES";

/// Opens the store of a folder, the same one each time.
pub async fn open(dir: &Path) -> Result<Tracking> {
    let Ok(server) = std::env::var(SERVER) else { return Tracking::open(dir).await };
    let name = name(dir);
    let make = {
        let (server, name) = (format!("{server}/postgres"), name.clone());
        move || {
            let mut client = postgres::Client::connect(&server, postgres::NoTls).unwrap();
            if client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).unwrap().is_none() {
                client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).unwrap();
            }
        }
    };
    tokio::task::spawn_blocking(make).await.unwrap();
    Tracking::open_at(dir, Some(&format!("{server}/{name}?sslmode=disable")), None).await
}

/// The database of a folder.
pub fn name(dir: &Path) -> String {
    format!("test_{:x}", dir.as_os_str().as_encoded_bytes().iter().fold(0u64, |hash, b| hash.wrapping_mul(131) ^ u64::from(*b)))
}
