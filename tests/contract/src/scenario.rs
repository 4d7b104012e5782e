//! Parses scenarios: a cluster, questions, and the required replies.
//!
//! ```text
//! # A comment.
//! flags --ttl=30
//!
//! objects
//!   apiVersion: v1
//!   kind: Namespace
//!   metadata: {name: shop}
//!   ---
//!   …
//!
//! ? web.shop.svc.cluster.local A +edns=1232
//!   kernel answers
//!   NOERROR aa rd
//!   answer  web.shop.svc.cluster.local. 30 IN A 10.96.1.1
//!   edns    1232
//! ```
//!
//! A question is a name, a type and [options](OPTIONS) in the manner of `dig`. RD is set unless
//! `+norec` is given. A reply is, in this order:
//!
//! * `kernel answers` or `kernel passes`, if the kernel program must do so,
//! * the response code and the header's flags,
//! * the records, each after the name of its section,
//! * the OPT record.
//!
//! `ignored` instead of a reply means that the agent sends no reply. `upstream` means that the
//! agent forwards the question to an upstream. `upstream NAME` means that it asks the upstream
//! about NAME, which is the last target in a chain of aliases.
//!
//! `soa ZONE` stands for the zone's SOA record in the authority section, with a TTL of 5 s.
//!
//! `answer N records` requires N records in the answer section, but does not compare them; other
//! sections likewise. Records of one owner and type may be in any order.

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    addresses::{POD, SERVED},
    message::{SECTIONS, sort_rrsets, type_number},
    packet::{QueryEdns, QueryPacket},
};

/// A parsed scenario file.
#[derive(Debug)]
pub struct Scenario {
    /// The agent's flags.
    pub flags: Vec<String>,
    /// The objects, as manifests.
    pub manifests: String,
    /// The questions, in order.
    pub questions: Vec<ScenarioQuestion>,
}

/// A question and its required reply.
#[derive(Debug)]
pub struct ScenarioQuestion {
    /// The line number in the file, from 1.
    pub line: usize,
    /// The question's text in the file.
    pub text: String,
    /// The queries to the served IPv4 address and to the served IPv6 address, without the changes
    /// that only `message` has.
    pub queries: [QueryPacket; 2],
    /// The DNS message of these queries, with the changes by options such as `+answers`.
    pub message: Vec<u8>,
    /// Whether the question is asked over TCP, which the kernel program never answers.
    pub over_tcp: bool,
    /// The required action of the kernel, if the file has one.
    pub kernel_action: Option<KernelAction>,
    /// The reply, in the lines of [`Message::lines`](crate::message::Message::lines) and lines
    /// `SECTION N records`, or the line `ignored` or `upstream …`.
    pub reply: Vec<String>,
}

/// The action of the kernel program on a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelAction {
    /// The program replies.
    Answers,
    /// The program passes the packet unchanged.
    Passes,
}

/// The options of a question.
pub const OPTIONS: &str = "+edns=SIZE +edns-version=N +do +cookie +options=HEX +norec +aa +tc +z +ad +cd +qr +opcode=N +class=N \
     +questions=N +answers=N +authorities=N +additionals=N +trailing-bytes=N +tcp";

/// The serial of all zones in scenarios.
pub const SERIAL: u32 = 1;

impl Scenario {
    /// Parses a scenario.
    ///
    /// # Errors
    ///
    /// If the text is not in the form that this module describes.
    pub fn read(text: &str) -> Result<Scenario> {
        let mut scenario = Scenario {
            flags: Vec::new(),
            manifests: String::new(),
            questions: Vec::new(),
        };
        let mut in_objects = false;
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            scenario
                .read_line(line, number, &mut in_objects)
                .with_context(|| format!("line {number}: {line}"))?;
        }
        ensure!(
            !scenario.questions.is_empty(),
            "the scenario has no question"
        );
        for question in &mut scenario.questions {
            ensure!(
                !question.reply.is_empty(),
                "line {}: {} has no reply",
                question.line,
                question.text
            );
            sort_rrsets(&mut question.reply);
        }
        Ok(scenario)
    }

    fn read_line(&mut self, line: &str, number: usize, in_objects: &mut bool) -> Result<()> {
        if line.starts_with(' ') {
            if *in_objects {
                self.manifests
                    .push_str(line.strip_prefix("  ").unwrap_or(line).trim_end());
                self.manifests.push('\n');
                return Ok(());
            }
            let question = self.questions.last_mut();
            return question.context("belongs to no question")?.read_reply(line);
        }
        *in_objects = line == "objects";
        if *in_objects {
            ensure!(
                self.manifests.is_empty(),
                "the scenario already has objects"
            );
        } else if let Some(flags) = line.strip_prefix("flags ") {
            self.flags
                .extend(flags.split_whitespace().map(str::to_owned));
        } else if let Some(text) = line.strip_prefix("? ") {
            self.questions.push(ScenarioQuestion::read(text, number)?);
        } else {
            bail!("is none of `objects`, `flags …`, `? …`");
        }
        Ok(())
    }
}

impl ScenarioQuestion {
    fn read(text: &str, line: usize) -> Result<ScenarioQuestion> {
        let mut words = text.split_whitespace();
        let (Some(name), Some(rtype)) = (words.next(), words.next()) else {
            bail!("is not `? NAME TYPE`");
        };
        let rtype = type_number(rtype)?;
        let mut draft = QueryDraft {
            query: QueryPacket::new(POD[0], SERVED[0], name, rtype),
            edits: Vec::new(),
            over_tcp: false,
        };
        for word in words {
            draft.apply_option(word)?;
        }
        let message = draft.message();
        let query6 = QueryPacket {
            client: POD[1],
            server: (SERVED[1], 53),
            ..draft.query.clone()
        };
        Ok(ScenarioQuestion {
            line,
            text: text.to_owned(),
            queries: [draft.query, query6],
            message,
            over_tcp: draft.over_tcp,
            kernel_action: None,
            reply: Vec::new(),
        })
    }

    fn read_reply(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["kernel", action] => {
                ensure!(self.reply.is_empty(), "must precede the reply");
                self.kernel_action = Some(match action {
                    "answers" => KernelAction::Answers,
                    "passes" => KernelAction::Passes,
                    _ => bail!("the kernel either `answers` or `passes`"),
                });
                return Ok(());
            }
            ["soa", zone] => {
                self.reply.push(format!(
                    "authority {zone} 5 IN SOA ns.dns.{zone} hostmaster.{zone} {SERIAL} 7200 1800 86400 5"
                ));
                return Ok(());
            }
            _ => {}
        }
        let is_known = |word: &str| {
            SECTIONS.contains(&word) || ["edns", "ignored", "upstream"].contains(&word)
        };
        let first = words.first().context("is blank")?;
        let is_head = self.reply.is_empty() && first.chars().all(|c| c.is_ascii_uppercase());
        ensure!(is_head || is_known(first), "is not part of a reply");
        self.reply.push(words.join(" "));
        Ok(())
    }

    /// The lines of a reply, but with one line `SECTION N records` instead of the records of each
    /// section that the file only counts. N is the number of these records in `lines`.
    #[must_use]
    pub fn count_records_as_required(&self, mut lines: Vec<String>) -> Vec<String> {
        for counted in self.reply.iter().filter(|line| line.ends_with(" records")) {
            let section = counted.split(' ').next().unwrap_or_default();
            let is_of_section = |line: &String| line.starts_with(&format!("{section} "));
            let count = lines.iter().filter(|line| is_of_section(line)).count();
            if let Some(at) = lines.iter().position(is_of_section) {
                lines.retain(|line| !is_of_section(line));
                lines.insert(at, format!("{section} {count} records"));
            }
        }
        lines
    }
}

/// A query while its options are parsed.
struct QueryDraft {
    query: QueryPacket,
    /// Positions in the message, each with the byte to write there. Past the end, a byte is
    /// appended.
    edits: Vec<(usize, u8)>,
    over_tcp: bool,
}

impl QueryDraft {
    fn apply_option(&mut self, word: &str) -> Result<()> {
        let option = word.strip_prefix('+').context("an option starts with +")?;
        let (option, value) = match option.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (option, None),
        };
        let number = || -> Result<u16> {
            let value = value.with_context(|| format!("{word} has no number"))?;
            value
                .parse()
                .with_context(|| format!("{value} is not a number"))
        };
        match option {
            "edns" => self.edns_mut().size = number()?,
            "edns-version" => self.edns_mut().ttl |= u32::from(number()?) << 16,
            "do" => self.edns_mut().ttl |= 0x8000,
            // RFC 7873: option 10, the client's eight bytes.
            "cookie" => self.edns_mut().options = vec![0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            "options" => {
                self.edns_mut().options = parse_hex(value.context("+options has no bytes")?)?;
            }
            "norec" => self.query.bits &= !0x0100,
            "aa" => self.query.bits |= 0x0400,
            "tc" => self.query.bits |= 0x0200,
            "z" => self.query.bits |= 0x0040,
            "ad" => self.query.bits |= 0x0020,
            "cd" => self.query.bits |= 0x0010,
            "qr" => self.query.bits |= 0x8000,
            "opcode" => self.query.bits |= number()? << 11,
            "class" => self.query.class = number()?,
            // The low bytes of the section counts.
            "questions" => self.edits.push((5, number()?.try_into()?)),
            "answers" => self.edits.push((7, number()?.try_into()?)),
            "authorities" => self.edits.push((9, number()?.try_into()?)),
            "additionals" => self.edits.push((11, number()?.try_into()?)),
            "trailing-bytes" => self.edits.extend((0..number()?).map(|_| (usize::MAX, 0))),
            "tcp" => self.over_tcp = true,
            _ => bail!("{word} is none of {OPTIONS}"),
        }
        Ok(())
    }

    fn edns_mut(&mut self) -> &mut QueryEdns {
        self.query.edns.get_or_insert(QueryEdns {
            size: 1232,
            ttl: 0,
            options: Vec::new(),
        })
    }

    fn message(&self) -> Vec<u8> {
        let mut message = self.query.message();
        for (at, byte) in &self.edits {
            match message.get_mut(*at) {
                Some(place) => *place = *byte,
                None => message.push(*byte),
            }
        }
        message
    }
}

/// Parses bytes of two hexadecimal digits each.
fn parse_hex(text: &str) -> Result<Vec<u8>> {
    ensure!(
        text.len().is_multiple_of(2),
        "{text} has an odd number of digits"
    );
    let byte = |at| u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16);
    (0..text.len())
        .step_by(2)
        .map(|at| byte(at).with_context(|| format!("{text} is not hexadecimal")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A scenario.
flags --ttl=30 --pods=disabled

objects
  kind: Namespace
  metadata:
    name: shop

? Shop.svc.cluster.local A +edns=512 +do
  kernel answers
  NOERROR aa rd
  soa     cluster.local.
  edns    1232 do
# The same over TCP.
? shop.svc.cluster.local AAAA +tcp +norec
  NOERROR aa
";

    #[test]
    fn a_scenario_is_parsed() {
        let scenario = Scenario::read(TEXT).unwrap();
        assert_eq!(scenario.flags, ["--ttl=30", "--pods=disabled"]);
        assert_eq!(
            scenario.manifests,
            "kind: Namespace\nmetadata:\n  name: shop\n"
        );
        let [first, second] = &scenario.questions[..] else {
            panic!("not two questions: {scenario:#?}");
        };
        assert_eq!(
            (first.line, first.kernel_action),
            (9, Some(KernelAction::Answers))
        );
        assert_eq!(
            first.reply,
            [
                "NOERROR aa rd",
                "authority cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5",
                "edns 1232 do",
            ]
        );
        assert_eq!(first.message, first.queries[0].message());
        // `+norec` clears RD, the only bit of byte 2 that a query sets by default.
        assert!(second.over_tcp && second.message[2] == 0);
    }

    #[test]
    fn malformed_scenarios_are_errors() {
        for (text, reason) in [
            ("", "has no question"),
            ("? a.b A\n", "has no reply"),
            ("  NOERROR\n", "belongs to no question"),
            ("? a.b NONE\n", "is not a record type"),
            ("? a.b A +fast\n", "none of"),
            ("? a.b A\n  noerror\n", "not part of a reply"),
            ("? a.b A\n  kernel thinks\n", "either"),
            ("object\n", "none of"),
        ] {
            let error = format!("{:#}", Scenario::read(text).unwrap_err());
            assert!(
                error.contains(reason),
                "{text:?}: no {reason:?} in: {error}"
            );
        }
    }
}
