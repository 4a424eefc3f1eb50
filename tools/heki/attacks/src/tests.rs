// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The table that is there, and tables and results that are not as they should be.

use std::collections::BTreeMap;

use crate::print;
use crate::table::{
    names_of,
    Report,
    Results,
    Table,
    Verdict, //
};

const TABLE: &str = include_str!("../../../testing/selftests/heki/attacks.toml");
const ATTACKS: &str = include_str!("../../../../virt/heki/attack/attacks.h");

/// A table of 35 rows with the same tests.
fn table(row: &str) -> String {
    let mut text = String::from("controls = [\"neighbour\"]\n");
    for number in 1..=35 {
        text += &format!("[[row]]\nnumber = {number}\nattack = \"x\"\n{row}\n");
    }
    text
}

fn verdict(tests: &str, results: &str) -> Verdict {
    let table = Table::parse(&table(tests)).unwrap();
    let results = Results::parse(results);
    let report = Report::new(&table, &results, &["vmx"], BTreeMap::new()).unwrap();
    report.rows[0].verdicts[0]
}

#[test]
fn the_table_has_all_attacks() {
    let names = names_of(ATTACKS);
    assert!(names.contains("text-direct-map") && names.contains("neighbour"));
    Table::parse(TABLE).unwrap().check_names(&names).unwrap();
}

#[test]
fn an_attack_that_is_missing_is_found() {
    let table = Table::parse(&table("tests = [\"attack/a\"]")).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(table.check_names(&names(&["a", "neighbour"])), Ok(()));
    let all = table.check_names(&names(&["a", "b", "neighbour"]));
    assert_eq!(all, Err("attack b is in no row".to_owned()));
    let few = table.check_names(&names(&["neighbour"]));
    assert_eq!(few, Err("there is no attack a".to_owned()));
    assert!(table.check_names(&names(&[])).is_err());
}

#[test]
fn tables_with_flaws_are_refused() {
    let good = table("tests = [\"kvm/a\"]");
    assert!(Table::parse(&good).is_ok());
    for bad in [
        table(""),
        table("tests = []"),
        table("tests = [\"a\"]"),
        table("tests = [\"kvm/a\"]\nout_of_scope = \"y\""),
        table("not_enforced = \"y\"\nout_of_scope = \"y\""),
        table("tests = [\"kvm/a\"]\nlimit = \"y\""),
        table("tests = [\"kvm/a\"]\nlimits = \"\""),
        table("not_enforced = \" \""),
        good.replace("number = 7\n", "number = 8\n"),
        good.rsplit_once("[[row]]").unwrap().0.to_owned(),
    ] {
        assert!(Table::parse(&bad).is_err(), "{bad}");
    }
}

#[test]
fn verdicts_follow_from_the_results() {
    let tests = "tests = [\"kvm/a\", \"attack/b*\"]";
    let with = |a: &str, b: &str| {
        verdict(
            tests,
            &format!("vmx kvm a {a}\nvmx attack b1 pass\nvmx attack b2 {b}\n"),
        )
    };
    assert_eq!(with("pass", "pass"), Verdict::Denied);
    assert_eq!(with("pass", "skip not enforced"), Verdict::Partly);
    assert_eq!(with("fail", "pass"), Verdict::Failed);
    assert_eq!(with("pass", "fail"), Verdict::Failed);
    assert_eq!(
        verdict(
            &format!("{tests}\nlimits = \"y\""),
            "vmx kvm a skip\nvmx attack b1 skip\n"
        ),
        Verdict::NotEnforced
    );
    // A test that did not run, and a leg that did not.
    assert_eq!(
        verdict(
            tests,
            "vmx kvm a pass
svm attack b1 pass
"
        ),
        Verdict::Failed
    );
    assert_eq!(
        verdict(
            tests,
            "svm kvm a pass
svm attack b1 pass
"
        ),
        Verdict::Failed
    );
    assert_eq!(verdict("not_enforced = \"y\"", ""), Verdict::NotEnforced);
    let both = format!("{tests}\nnot_enforced = \"y\"");
    let passed = "vmx kvm a pass\nvmx attack b1 pass\n";
    assert_eq!(verdict(&both, passed), Verdict::Partly);
    assert_eq!(verdict(&both, ""), Verdict::Failed);
    assert_eq!(verdict("out_of_scope = \"y\"", ""), Verdict::OutOfScope);
    // One of two results of the same name.
    assert_eq!(
        verdict("tests = [\"kvm/a\"]", "vmx kvm a pass\nvmx kvm a fail\n"),
        Verdict::Failed
    );
}

#[test]
fn all_remarks_are_kept() {
    let row = "tests = [\"kvm/a\"]\nlimits = \"one\"\nnot_enforced = \"two\"";
    let table = Table::parse(&table(row)).unwrap();
    let results = Results::parse("vmx kvm a pass\n");
    let report = Report::new(&table, &results, &["vmx"], BTreeMap::new()).unwrap();
    assert_eq!(report.rows[0].remark.as_deref(), Some("one; two"));
    assert!(print::rst(&report).contains("``kvm/a``. Open: one; two\n"));
}

#[test]
fn what_is_not_enforced_says_why() {
    let table = Table::parse(&table("tests = [\"kvm/a\"]")).unwrap();
    let report = |results| {
        let results = Results::parse(results);
        Report::new(&table, &results, &["vmx", "svm"], BTreeMap::new()).map(|_| ())
    };
    assert_eq!(report("vmx kvm a pass\nsvm kvm a pass\n"), Ok(()));
    let why = "row 1 is not enforced, and says no reason".to_owned();
    assert_eq!(report("vmx kvm a pass\nsvm kvm a skip no GMET\n"), Err(why));
}

#[test]
fn every_row_is_printed() {
    let table = Table::parse(TABLE).unwrap();
    let results = Results::parse("vmx attack rodata pass\nsvm attack rodata pass\n");
    let versions = BTreeMap::from([("kernel".to_owned(), "7.3.4".to_owned())]);
    let report = Report::new(&table, &results, &["svm", "vmx"], versions).unwrap();
    for text in [
        print::plain(&report),
        print::rst(&report),
        print::markdown(&report),
    ] {
        for row in &report.rows {
            assert!(text.contains(&row.attack));
        }
        assert!(text.contains("svm") && text.contains("vmx"));
    }
    let rst = print::rst(&report);
    let title = rst.lines().nth(3).unwrap();
    assert_eq!(rst.lines().nth(2).unwrap().len(), title.len());
    assert!(rst.contains("- kernel: 7.3.4\n"));
}
