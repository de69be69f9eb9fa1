//! Command lines as the C++ overlaybd tools take them, whose parser is CLI11.
//!
//! arguments -> **cli11** (clap) -> tool -> **cli11** -> exit status
//!
//! Options and positionals may be mixed; a flag is given as `--flag`, `--flag=false` or not at all,
//! and repeated at will. A bad command line is one line on stderr, then a hint at `--help`, and
//! CLI11's exit status for its kind; all other failures end with 255.
//!
//! Source: format reference 10.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};

use super::console;
use crate::error;

/// Exit status of a failure that is no bad command line.
const FAILED: u8 = 255;

const CONVERSION: u8 = 104;
const VALIDATION: u8 = 105;
const REQUIRED: u8 = 106;
const EXTRAS: u8 = 109;
const MISMATCH: u8 = 114;

/// What `--help` ends with, unless a program has words of its own.
const AFTER_HELP: &str = "\
A flag can be turned off: --flag=false.
Exit status: 0 done, 104 a value is not of its type, 105 a file does not exist,
106 an argument is missing, 109 one was not expected, 255 anything else.";

/// Why a program ends without success: what it says and its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// A failure with status 255.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: FAILED,
        }
    }

    /// What could not be done, the error number, and why in our own words.
    #[must_use]
    pub fn of(what: &str, error: &error::Error) -> Self {
        Self::new(format!("{what}, {}: {error}", errno(error)))
    }

    /// The same in the other form that the C++ tools have.
    #[must_use]
    pub fn with_errno(what: &str, error: &error::Error) -> Self {
        Self::new(format!("{what}, errno:{}: {error}", errno(error)))
    }

    /// A file that could not be opened or made.
    #[must_use]
    pub fn open(path: &std::path::Path, error: &error::Error) -> Self {
        let (path, number) = (path.display(), errno(error));
        Self::new(match error.kind() {
            error::ErrorKind::Exists => {
                format!("failed to open file '{path}', {number}: File exists")
            }
            error::ErrorKind::NotFound => {
                format!("failed to open file '{path}', {number}: No such file or directory")
            }
            _ => format!("failed to open file '{path}', {number}: {error}"),
        })
    }

    /// The same with another exit status.
    #[must_use]
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    fn usage(code: u8, message: impl fmt::Display) -> Self {
        let message = format!("{message}\nRun with --help for more information.");
        Self { message, code }
    }
}

/// Runs a program: parses its command line, does `work`, and tells how that went.
#[must_use]
pub fn run<T: Parser>(work: impl FnOnce(&T) -> Result<(), Failure>) -> ExitCode {
    let parsed = match parse::<T>(std::env::args_os()) {
        Ok(Parsed::Arguments(arguments)) => work(&arguments),
        Ok(Parsed::Text(text)) => {
            console::say(text.trim_end());
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    let code = match parsed {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::complain(failure.message);
            ExitCode::from(failure.code)
        }
    };
    console::exit_code(code, ExitCode::from(FAILED))
}

/// The parser of an argument that names an existing file.
#[must_use]
pub fn existing_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        let problem = match path.metadata() {
            Ok(metadata) if metadata.is_dir() => "File is actually a directory",
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => "Permission denied",
            Err(_) => "File does not exist",
        };
        Err(Invalid(format!("{problem}: {}", path.display())))
    })
}

/// A value of the right type that is refused all the same.
#[derive(Debug)]
struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

#[derive(Debug)]
enum Parsed<T> {
    Arguments(T),
    /// Asked for: help, or the version.
    Text(String),
}

fn parse<T: Parser>(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<Parsed<T>, Failure> {
    let mut command = T::command().mut_args(as_cli11);
    let matches = command.try_get_matches_from_mut(arguments);
    let parsed = matches.and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    match parsed {
        Ok(arguments) => Ok(Parsed::Arguments(arguments)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => Ok(Parsed::Text(help(T::command()))),
            ErrorKind::DisplayVersion => Ok(Parsed::Text(error.to_string())),
            _ => Err(explain(&error)),
        },
    }
}

/// All there is to say, closely set. Flags are shown without the values nobody needs.
fn help(command: Command) -> String {
    let about = command.get_long_about().or(command.get_about()).cloned();
    let after = command.get_after_help().cloned();
    let mut command = command
        .about(about.unwrap_or_default())
        .long_about(None)
        .after_help(after.unwrap_or(AFTER_HELP.into()));
    command.build();
    command.render_help().to_string()
}

/// Gives a flag the forms it has in CLI11, and lets values start with a dash.
fn as_cli11(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue => flag(arg),
        ArgAction::Set if !arg.is_positional() => arg.allow_hyphen_values(true),
        _ => arg,
    }
}

fn flag(arg: Arg) -> Arg {
    let id = arg.get_id().clone();
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .value_parser(truth)
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
        .overrides_with(id)
}

/// The value of a flag.
///
/// # Errors
/// Anything but a word for true or false.
pub fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "enable" | "t" | "y" | "+" | "1" => Ok(true),
        "false" | "off" | "no" | "disable" | "f" | "n" | "-" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// CLI11's words and exit status.
fn explain(error: &clap::Error) -> Failure {
    let argument = argument_of(error);
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let refused = error.source().is_some_and(|source| source.is::<Invalid>());
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            Failure::usage(REQUIRED, format_args!("{argument} is required"))
        }
        ErrorKind::UnknownArgument => {
            let message = format_args!("The following argument was not expected: {argument}");
            Failure::usage(EXTRAS, message)
        }
        ErrorKind::ValueValidation if refused => {
            Failure::usage(VALIDATION, format_args!("{argument}: {}", why(error)))
        }
        ErrorKind::InvalidValue | ErrorKind::NoEquals if value.is_empty() => Failure::usage(
            MISMATCH,
            format_args!("{argument}: 1 required value missing"),
        ),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let message = format_args!("Could not convert: {argument} = {value}: {}", why(error));
            Failure::usage(CONVERSION, message)
        }
        ErrorKind::ArgumentConflict | ErrorKind::TooManyValues => {
            Failure::usage(MISMATCH, format_args!("{argument}: given more than once"))
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Failure::usage(FAILED, line.trim_start_matches("error: "))
        }
    }
}

fn why(error: &clap::Error) -> String {
    let source = error.source();
    source.map_or(
        "not one of the possible values".to_owned(),
        ToString::to_string,
    )
}

/// The name of the argument that `error` is about, without dashes' values and brackets.
fn argument_of(error: &clap::Error) -> String {
    let shown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        Some(ContextValue::Strings(arguments)) => {
            arguments.first().map(String::as_str).unwrap_or_default()
        }
        _ => "",
    };
    // An argument nobody knows is shown as it was given.
    if error.kind() == ErrorKind::UnknownArgument {
        return shown.to_owned();
    }
    let name = shown.split([' ', '=']).next().unwrap_or_default();
    let bare = name.trim_matches(['<', '>', '[', ']']);
    bare.trim_end_matches('[').to_owned()
}

/// The error number in the messages of the C++ tools: the system's, or else the one that stands for
/// the kind of error.
fn errno(error: &error::Error) -> i32 {
    error.raw_os_error().unwrap_or(match error.kind() {
        error::ErrorKind::NotFound => libc::ENOENT,
        error::ErrorKind::Exists => libc::EEXIST,
        error::ErrorKind::NoSpace => libc::ENOSPC,
        error::ErrorKind::Busy => libc::EBUSY,
        error::ErrorKind::ReadOnly => libc::EROFS,
        error::ErrorKind::Unsupported => libc::ENOTSUP,
        error::ErrorKind::Corrupt | error::ErrorKind::Config | error::ErrorKind::OutOfRange => {
            libc::EINVAL
        }
        error::ErrorKind::Remote(error::Remote::NotFound) => libc::ENOENT,
        error::ErrorKind::Remote(error::Remote::Unauthorized | error::Remote::Forbidden) => {
            libc::EPERM
        }
        error::ErrorKind::Remote(error::Remote::TimedOut) => libc::ETIMEDOUT,
        error::ErrorKind::Io | error::ErrorKind::Remote(_) => libc::EIO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "probe", version)]
    struct Probe {
        #[arg(short = 's')]
        sparse: bool,
        #[arg(long)]
        raw: bool,
        #[arg(long = "bs", value_name = "KIB", default_value_t = 4)]
        bs: u32,
        #[arg(short = 'm', value_name = "TEXT")]
        tag: Option<String>,
        #[arg(value_name = "data_file", value_parser = existing_file())]
        data: PathBuf,
        #[arg(value_name = "size")]
        size: u64,
    }

    fn try_parse(line: &str) -> Result<Parsed<Probe>, Failure> {
        let arguments = ["probe"].into_iter().chain(line.split_whitespace());
        parse(arguments.map(Into::into))
    }

    fn parsed(line: &str) -> Probe {
        match try_parse(line) {
            Ok(Parsed::Arguments(probe)) => probe,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> (u8, String) {
        let failure = try_parse(line).unwrap_err();
        let hint = "\nRun with --help for more information.";
        (
            failure.code,
            failure.message.strip_suffix(hint).unwrap().to_owned(),
        )
    }

    #[test]
    fn options_and_positionals_mix_in_every_order_and_form() {
        for line in [
            "--bs 8 -s -m -x Cargo.toml 7",
            "Cargo.toml --bs=8 -m=-x 7 -s",
            "Cargo.toml 7 -sm-x --bs=8 --raw=false",
            "-s=true Cargo.toml --raw --raw=no 7 -m -x --bs 8 -s",
        ] {
            let probe = parsed(line);
            assert!(probe.sparse && !probe.raw, "{line}: {probe:?}");
            assert_eq!((probe.bs, probe.size), (8, 7), "{line}");
            assert_eq!(probe.tag.as_deref(), Some("-x"), "{line}");
            assert_eq!(probe.data, PathBuf::from("Cargo.toml"));
        }
        assert!(parsed("--raw -s=off Cargo.toml 0").raw);
    }

    #[test]
    fn each_kind_of_bad_command_line_has_its_exit_status_and_names_the_argument() {
        let cases = [
            ("", 106, "data_file is required"),
            ("Cargo.toml", 106, "size is required"),
            ("nowhere 7", 105, "data_file: File does not exist: nowhere"),
            ("src 7", 105, "data_file: File is actually a directory: src"),
            (
                "Cargo.toml x",
                104,
                "Could not convert: size = x: invalid digit found in string",
            ),
            (
                "Cargo.toml 7 --bs=x",
                104,
                "Could not convert: --bs = x: invalid digit found in string",
            ),
            (
                "Cargo.toml 7 --raw=2",
                104,
                "Could not convert: --raw = 2: expected true or false",
            ),
            (
                "Cargo.toml 7 8",
                109,
                "The following argument was not expected: 8",
            ),
            (
                "Cargo.toml 7 --no",
                109,
                "The following argument was not expected: --no",
            ),
            ("Cargo.toml 7 --bs", 114, "--bs: 1 required value missing"),
            (
                "Cargo.toml 7 --bs 4 --bs 8",
                114,
                "--bs: given more than once",
            ),
        ];
        for (line, code, message) in cases {
            assert_eq!(refused(line), (code, message.to_owned()), "{line}");
        }
    }

    #[test]
    fn the_error_number_is_that_of_the_system_where_there_is_one() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let denied = error::Error::io("open file", denied);
        assert_eq!(
            Failure::open("x".as_ref(), &denied).message,
            "failed to open file 'x', 13: open file: Permission denied (os error 13)"
        );
        let damaged = error::Error::corrupt("read layer", "bad");
        assert_eq!(
            Failure::of("failed", &damaged).message,
            "failed, 22: read layer: bad"
        );
    }

    #[test]
    fn help_wins_over_what_is_missing_and_tells_the_exit_statuses() {
        let Ok(Parsed::Text(help)) = try_parse("--help") else {
            panic!("no help");
        };
        assert!(
            help.contains("Usage: probe [OPTIONS] <data_file> <size>"),
            "{help}"
        );
        assert!(help.contains("Exit status:"), "{help}");
    }
}
