//! The command line: `serve`, and client commands that are thin calls of the API.
//!
//! Exit codes: 0 done, 1 refused or failed with one line on stderr, 2 wrong usage.

mod acl;
mod apply;
mod begin;
mod capture;
mod client;
mod completions;
mod events;
mod explain;
mod extension;
mod fdb;
mod file;
mod meter;
mod migrate;
mod nv;
mod policy;
mod port;
mod rule;
mod serve;
mod session;
mod switch;
mod table;
mod top;
mod trace;
mod uplink;
mod value;
mod worker;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;
use vswitch::refusal::Refused;

use self::client::Client;

const EXAMPLES: &str = "\
Examples:
  turnpike serve &                                          start the switch
  turnpike port add web --socket /run/turnpike/web.sock     add a port for a guest
  turnpike port add host --tap tp0                          let the host take part
  turnpike uplink add up --device eth1                      reach the physical network
  turnpike port list                                        see them

A QEMU guest attaches to the first port with
  -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem
  -chardev socket,id=c0,path=/run/turnpike/web.sock,reconnect=1      (QEMU 9.2 or later: reconnect-ms=100)
  -netdev vhost-user,id=n0,chardev=c0 -device virtio-net-pci,netdev=n0";

/// The network card and the switch of many virtual machines, over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "turnpike", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    /// The API socket of the switch.
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        hide_env_values = true,
        env = "TURNPIKE_API",
        value_name = "PATH",
        default_value = "/run/turnpike/api.sock"
    )]
    api: PathBuf,

    /// Print one JSON document instead of a table.
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the switch.
    Serve(serve::Serve),
    /// Show and change switch-wide settings.
    #[command(subcommand)]
    Switch(switch::Switch),
    /// Guest ports, host ports and their policy.
    #[command(subcommand)]
    Port(port::Port),
    /// A port's ACL: which addresses it may talk to, and whose bytes are counted.
    #[command(subcommand)]
    Acl(acl::Acl),
    /// A port's extended rules: addresses, protocols and ports, also with state.
    #[command(subcommand)]
    Rule(rule::Rule),
    /// The physical network.
    #[command(subcommand)]
    Uplink(uplink::Uplink),
    /// What ports are billed for: packets and bytes by address.
    #[command(subcommand)]
    Meter(meter::Meter),
    /// Connections that stateful rules follow.
    #[command(subcommand)]
    Session(session::Session),
    /// Network virtualization: customer networks with addresses of their own over the physical network.
    #[command(subcommand)]
    Nv(nv::Nv),
    /// Extensions: what others add to the switch, built in or loaded as WebAssembly modules.
    #[command(subcommand)]
    Extension(extension::Extension),
    /// Ports on the move. With QEMU 10 or cloud-hypervisor 52, or newer, a guest's state travels in the front end's own stream and no command
    /// is needed.
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// The forwarding table: which address is behind which port.
    #[command(subcommand)]
    Fdb(fdb::Fdb),
    /// The threads that move frames, and their load.
    #[command(subcommand)]
    Worker(worker::Worker),
    /// Make the switch equal to a file: shows the differences, and changes all of it or nothing.
    Apply(apply::Apply),
    /// Print the switch as a file for `apply`; what is at its default is left out.
    Save,
    /// Say what would happen to a frame now, step by step, and why; nothing is sent.
    Explain(explain::Explain),
    /// Show what happens to frames, a line for each: the steps that did something, why it was dropped, who got it. Ends with Ctrl-C.
    Trace(trace::Trace),
    /// Write frames to a file for Wireshark: an interface for each port, and why a frame was dropped as its comment. Ends with Ctrl-C.
    Capture(capture::Capture),
    /// Show ports and workers with what passes each second, until Ctrl-C.
    Top(top::Top),
    /// Show what happened: the last 4096 events, oldest first. With --json, one JSON object per line.
    Events(events::Events),
    /// Print a completion script for a shell, for example
    /// `turnpike completions bash > /etc/bash_completion.d/turnpike`.
    Completions(completions::Completions),
    /// Write the man pages into a directory, for example `turnpike man /usr/local/share/man/man1`.
    Man(completions::Man),
}

/// For commands that have no answer to print: `--json` is not offered there, and refused.
#[derive(Debug, Args)]
struct NoJson {
    #[arg(long, hide = true)]
    json: bool,
}

/// Why a command ends with exit code 1: the whole line after `turnpike: `.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self(refused.to_string())
    }
}

type Outcome = Result<(), Failure>;

/// Where a client command's answer goes.
struct Answer {
    json: bool,
}

impl Answer {
    /// Prints `value` as JSON, or what `text` makes of it.
    fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Outcome {
        let text = if self.json {
            serde_json::to_string_pretty(value)
                .map_err(|e| Failure(format!("the answer is not JSON: {e}")))?
        } else {
            text(value)
        };
        print(text.trim_end_matches('\n'), true)
    }
}

/// Writes to stdout. A reader that went away (`| head`) is not a failure.
fn print(text: &str, newline: bool) -> Outcome {
    let mut out = std::io::stdout().lock();
    let end = if newline { "\n" } else { "" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|e| Failure(format!("cannot write to standard output: {e}"))),
    }
}

/// Writes a line of an answer that goes on; `Break` = its reader went away (`| head`).
fn say(line: &str) -> Result<ControlFlow<()>, Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(Failure(format!("cannot write to standard output: {e}"))),
    }
}

/// Runs the command the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let no_answer = match &cli.command {
        Command::Serve(serve) => Some(&serve.no_json),
        Command::Completions(completions) => Some(&completions.no_json),
        Command::Man(man) => Some(&man.no_json),
        Command::Capture(capture) => Some(&capture.no_json),
        _ => None,
    };
    if no_answer.is_some_and(|own| own.json || cli.json) {
        Cli::command().error(ErrorKind::ArgumentConflict, "--json has no meaning for this command").exit();
    }
    let client = Client::new(cli.api.clone());
    let answer = Answer { json: cli.json };
    let outcome = match cli.command {
        Command::Serve(serve) => serve.run(&cli.api),
        Command::Switch(switch) => switch.run(&client, &answer),
        Command::Port(port) => port.run(&client, &answer),
        Command::Acl(acl) => acl.run(&client, &answer),
        Command::Rule(rule) => rule.run(&client, &answer),
        Command::Uplink(uplink) => uplink.run(&client, &answer),
        Command::Meter(meter) => meter.run(&client, &answer),
        Command::Session(session) => session.run(&client, &answer),
        Command::Nv(nv) => nv.run(&client, &answer),
        Command::Extension(extension) => extension.run(&client, &answer),
        Command::Migrate(migrate) => migrate.run(&client, &answer),
        Command::Fdb(fdb) => fdb.run(&client, &answer),
        Command::Worker(worker) => worker.run(&client, &answer),
        Command::Apply(apply) => apply.run(&client, &answer),
        Command::Save => apply::save(&client, &answer),
        Command::Explain(explain) => explain.run(&client, &answer),
        Command::Trace(trace) => trace.run(&client, &answer),
        Command::Capture(capture) => capture.run(&client),
        Command::Top(top) => top.run(&client, &answer),
        Command::Events(events) => events.run(&client, &answer),
        Command::Completions(completions) => completions.run(&mut Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(line)) => {
            eprintln!("turnpike: {line}");
            ExitCode::FAILURE
        }
    }
}

/// Ends with a usage error (exit code 2) of `turnpike NOUN VERB`.
fn usage_error(command: [&str; 2], message: &str) -> ! {
    let mut cli = Cli::command();
    cli.build();
    let [noun, verb] = command;
    let sub = cli.find_subcommand_mut(noun).and_then(|noun| noun.find_subcommand_mut(verb));
    match sub {
        Some(sub) => sub.error(ErrorKind::MissingRequiredArgument, message).exit(),
        None => cli.error(ErrorKind::MissingRequiredArgument, message).exit(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_api_socket_may_be_given_before_or_after_the_command() {
        for line in [["turnpike", "--api", "/x", "port", "list"], ["turnpike", "port", "list", "--api", "/x"]]
        {
            assert_eq!(Cli::parse_from(line).api, PathBuf::from("/x"));
        }
    }
}
