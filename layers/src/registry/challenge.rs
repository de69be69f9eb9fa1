//! What a server wants to see before it answers: the challenges of `WWW-Authenticate`.
//!
//! origin -> **challenge** -> repository
//!
//! Lenient where the meaning is clear: spaces around `=` and after commas, empty list members,
//! a quotation mark that is missing at the end.
//!
//! Source: RFC 9110, 11.6.1; format reference 6.2.

/// More than any server has reason to send.
const CHALLENGES_MAX: usize = 16;
const PARAMS_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = 16 << 10;

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `bearer`, `basic`, ...: in small letters.
    pub scheme: String,
    /// Names in small letters and values, in order.
    pub params: Vec<(String, String)>,
}

impl Challenge {
    /// The first value of a parameter.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        let mut found = self.params.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header line, in order. Never fails: what makes no sense is left out.
#[must_use]
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    if header.len() > HEADER_BYTES_MAX {
        return challenges;
    }
    let mut rest = header;
    // Right after a scheme stands a parameter, or a blob ("token68") of which we know no use.
    let mut after_scheme = false;
    loop {
        let skipped = rest.trim_start_matches([' ', '\t', ',']);
        after_scheme &= !gap(rest, skipped).contains(',');
        let (word, tail) = split_word(skipped);
        if word.is_empty() {
            match skipped.chars().next() {
                Some(stray) => rest = skipped.get(stray.len_utf8()..).unwrap_or(""),
                None => return challenges,
            }
            continue;
        }
        rest = tail;
        if let Some(tail) = tail.trim_start_matches([' ', '\t']).strip_prefix('=') {
            let (value, tail) = split_value(tail);
            rest = tail;
            if let Some(challenge) = challenges.last_mut()
                && challenge.params.len() < PARAMS_MAX
                && !value.bytes().all(|byte| byte == b'=')
            {
                challenge.params.push((word.to_ascii_lowercase(), value));
            }
            after_scheme = false;
        } else if after_scheme {
            after_scheme = false;
        } else if challenges.len() < CHALLENGES_MAX {
            challenges.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                params: Vec::new(),
            });
            after_scheme = true;
        } else {
            return challenges;
        }
    }
}

/// What was cut off the front of `whole` to get `tail`.
fn gap<'a>(whole: &'a str, tail: &str) -> &'a str {
    whole.get(..whole.len() - tail.len()).unwrap_or("")
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// The value after `=`, and what follows it.
fn split_value(text: &str) -> (String, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, tail) = text.split_at_checked(end).unwrap_or((text, ""));
        return (value.to_owned(), tail);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => break,
            '\\' => value.extend(chars.next()),
            _ => value.push(char),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn challenge(scheme: &str, params: &[(&str, &str)]) -> Challenge {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Challenge {
            scheme: scheme.to_owned(),
            params: params.iter().map(own).collect(),
        }
    }

    #[test]
    fn a_registrys_challenge_is_read_however_it_is_spaced() {
        let expected = challenge(
            "bearer",
            &[
                ("realm", "https://auth.example/token"),
                ("service", "r.example"),
                ("scope", "repository:a/b:pull,push"),
            ],
        );
        for text in [
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
            r#"bearer  Realm = "https://auth.example/token" , service=r.example, scope="repository:a/b:pull,push"#,
            r#",BEARER realm="https://auth.example/token",,	service="r.exa\mple",scope="repository:a/b:pull,push","#,
        ] {
            assert_eq!(parse(text), std::slice::from_ref(&expected), "{text}");
        }
    }

    #[test]
    fn several_challenges_in_one_line_are_told_apart() {
        let text = r#"Negotiate YWJj==, Basic realm="a, b", Digest abc/+, Bearer realm="c", NTLM"#;
        let expected = [
            challenge("negotiate", &[]),
            challenge("basic", &[("realm", "a, b")]),
            challenge("digest", &[]),
            challenge("bearer", &[("realm", "c")]),
            challenge("ntlm", &[]),
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn the_first_of_two_equal_names_counts() {
        let parsed = parse("Bearer scope=a, scope=b");
        assert_eq!(parsed[0].param("scope"), Some("a"));
        assert_eq!(parsed[0].param("realm"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_answered_within_bounds(text in r#"([A-Za-z]{1,6}|[ ,="\\\t])*|.{0,200}"#) {
            let parsed = parse(&text);
            prop_assert!(parsed.len() <= CHALLENGES_MAX);
            prop_assert!(parsed.iter().all(|found| found.params.len() <= PARAMS_MAX));
        }

        #[test]
        fn quoted_values_come_back_as_they_were(
            values in proptest::collection::vec(("[a-z]{1,8}", "[ -~]{0,30}"), 1..6),
        ) {
            let quote = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
            let params: Vec<String> = values.iter().map(|(name, value)| format!("{name}=\"{}\"", quote(value))).collect();
            let parsed = parse(&format!("Scheme {}", params.join(", ")));
            prop_assert_eq!(parsed.len(), 1);
            let expected: Vec<_> = values.into_iter().filter(|(_, value)| !value.bytes().all(|byte| byte == b'=')).collect();
            prop_assert_eq!(&parsed[0].params, &expected);
        }
    }
}
