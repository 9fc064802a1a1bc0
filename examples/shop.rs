//! A small web shop that keeps its sessions in a folder: sign in, fill a cart, see your devices, sign out of one or all.
//!
//! ```sh
//! cargo run --release --example shop
//! ```
//!
//! Then open <http://127.0.0.1:3000/>, put something into the cart, kill the process with `kill -9`, start it again: you are still signed in, and
//! the cart is whole. It is an example of sessions: it has no passwords, and believes any name.

#[path = "shop/devices.rs"]
mod devices;
#[path = "shop/goods.rs"]
mod goods;
#[path = "shop/guard.rs"]
mod guard;
#[path = "shop/page.rs"]
mod page;
#[path = "shop/routes.rs"]
mod routes;
#[path = "shop/visit.rs"]
mod visit;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cloakroom::{Lifetime, LogStore, Options, SessionStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use visit::Door;

/// A session ends after so many days without a request; at the latest after [`devices::SESSION_DAYS_MAX`].
const IDLE_DAYS: u32 = 7;
/// How long a new process waits for the old one to close the folder, so that a deploy needs no pause in between.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests in flight may take once the shop was told to end.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "A small web shop that keeps its sessions in a folder")]
struct Arguments {
    /// Where the sessions are kept.
    #[arg(long, default_value = "./shop-sessions")]
    folder: PathBuf,
    /// Where to listen, with plain HTTP.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Browsers reach the shop over https, through a proxy that ends TLS and passes the `Host` header on.
    #[arg(long)]
    https: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    if !arguments.https && !arguments.listen.ip().is_loopback() {
        return Err("over plain HTTP everybody on the way could read the cookie: listen on a loopback address, or put a \
                    proxy that ends TLS in front and give --https"
            .into());
    }
    let store = LogStore::open_wait(&arguments.folder, Options::default(), PATIENCE).await?;
    let recovery = store.recovery();
    println!(
        "{} sessions and device lists found in {} ({} records read in {:?})",
        recovery.sessions,
        arguments.folder.display(),
        recovery.records,
        recovery.took
    );
    let served = serve(&arguments, store.clone()).await;
    // Closed also where serving failed: what was acknowledged is on the disk before the process ends.
    store.close().await?;
    println!("closed");
    served
}

async fn serve(arguments: &Arguments, store: LogStore) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(arguments.listen).await?;
    let ticket = visit::ticket(arguments.https)?;
    let scheme = if arguments.https { "https" } else { "http" };
    println!("listening on http://{}/", listener.local_addr()?);
    if !arguments.https {
        println!(
            "plain HTTP on a loopback address: the cookie is named {:?} and comes without `Secure` and `__Host-`, which some \
             browsers refuse here; with --https it is named {:?} and has both",
            ticket.name(),
            visit::ticket(true)?.name()
        );
    }
    let absolute = devices::DAY * devices::SESSION_DAYS_MAX;
    let door =
        Door { store, ticket, lifetime: Lifetime::idle(devices::DAY * IDLE_DAYS).and_absolute(absolute) };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (tell, told) = tokio::sync::oneshot::channel();
    let asked_to_end = async move {
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        println!("closing");
        let _ = tell.send(());
    };
    let serving = axum::serve(listener, routes::router(door, scheme)).with_graceful_shutdown(asked_to_end);
    let out_of_patience = async {
        let _: Result<(), _> = told.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        done = serving => Ok(done?),
        () = out_of_patience => Ok(()),
    }
}
