// SPDX-License-Identifier: GPL-2.0
/*
 * heki_living: a module that changes its own text, as many do. Test only.
 *
 * Load it before the seal. In debugfs/heki_living, "key" and "call" take 0 or 1
 * and are read as what the code then does; "race" takes a number of rounds, in
 * each of which one CPU flips both while another one runs them; "result" says
 * what came of it. "probe" puts a breakpoint on a function of the kernel and is
 * read as the hits of one call, "probe_text" as whether its text differs from what
 * it was; "foreign_probe" puts one where no list has it. Any number written to
 * "kgdb" or "foreign_kgdb" has kgdb set a breakpoint there and take it away.
 * The other files are those of figures.c.
 *
 * Neighbours: debugger.c, figures.c. Locks: living_lock, one request at a time.
 */
#define pr_fmt(fmt) "heki_living: " fmt

#include <linux/debugfs.h>
#include <linux/jump_label.h>
#include <linux/kprobes.h>
#include <linux/kstrtox.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/static_call.h>
#include <linux/string.h>

#include <asm/ibt.h>

#include "heki_living.h"

#define MAX_ROUNDS	1000000

static DEFINE_MUTEX(living_lock);
static DEFINE_STATIC_KEY_FALSE(living_key);
static struct dentry *dir;

static noinline int living_zero(void)
{
	return 0;
}

static noinline int living_one(void)
{
	return 1;
}

DEFINE_STATIC_CALL(living_call, living_zero);

static noinline int run_key(void)
{
	return static_branch_unlikely(&living_key) ? 1 : 0;
}

static noinline int run_call(void)
{
	return static_call(living_call)();
}

static void set_key(bool on)
{
	if (on)
		static_branch_enable(&living_key);
	else
		static_branch_disable(&living_key);
}

static void set_call(bool on)
{
	static_call_update(living_call, on ? living_one : living_zero);
}

static int get_key(void *data, u64 *value)
{
	*value = run_key();
	return 0;
}

static int put_key(void *data, u64 value)
{
	guard(mutex)(&living_lock);
	set_key(value);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(key_fops, get_key, put_key, "%llu\n");

static int get_call(void *data, u64 *value)
{
	*value = run_call();
	return 0;
}

static int put_call(void *data, u64 value)
{
	guard(mutex)(&living_lock);
	set_call(value);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(call_fops, get_call, put_call, "%llu\n");

/*
 * kstrtobool() is never traced, as all of lib/, so a probe there is a breakpoint.
 * Neither is sysfs_streq().
 */
#define PROBED		"kstrtobool"
#define FOREIGN		"sysfs_streq"

static u8 probed_text[16];
static u64 probe_hits;
static bool is_probed, is_foreign_probed;
static struct kprobe probe, foreign_probe;

static int count_hit(struct kprobe *p, struct pt_regs *regs)
{
	probe_hits++;
	return 0;
}

static int set_probe(struct kprobe *p, const char *symbol, bool *is_set, bool on)
{
	int ret;

	if (on == *is_set)
		return 0;
	if (!on) {
		unregister_kprobe(p);
		*is_set = false;
		return 0;
	}
	*p = (struct kprobe){ .symbol_name = symbol, .pre_handler = count_hit };
	ret = register_kprobe(p);
	*is_set = !ret;
	return ret;
}

static int get_probe(void *data, u64 *value)
{
	bool yes;

	guard(mutex)(&living_lock);
	probe_hits = 0;
	if (kstrtobool("y", &yes) || !yes)
		return -EINVAL;
	*value = probe_hits;
	return 0;
}

static int put_probe(void *data, u64 value)
{
	guard(mutex)(&living_lock);
	return set_probe(&probe, PROBED, &is_probed, value);
}
DEFINE_DEBUGFS_ATTRIBUTE(probe_fops, get_probe, put_probe, "%llu\n");

static int get_probe_text(void *data, u64 *value)
{
	*value = !!memcmp(probed_text, (void *)kstrtobool, sizeof(probed_text));
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(probe_text_fops, get_probe_text, NULL, "%llu\n");

static int put_foreign_probe(void *data, u64 value)
{
	guard(mutex)(&living_lock);
	return set_probe(&foreign_probe, FOREIGN, &is_foreign_probed, value);
}
DEFINE_DEBUGFS_ATTRIBUTE(foreign_probe_fops, NULL, put_foreign_probe, "%llu\n");

/* As a kprobe would, behind the ENDBR64 that a function may begin with. */
static int break_at(void *function)
{
#ifdef CONFIG_X86_KERNEL_IBT
	if (*(u32 *)function == gen_endbr())
		function += ENDBR_INSN_SIZE;
#endif
	guard(mutex)(&living_lock);
	return debugger_breakpoint(function);
}

static int put_kgdb(void *data, u64 value)
{
	return break_at(kstrtobool);
}
DEFINE_DEBUGFS_ATTRIBUTE(kgdb_fops, NULL, put_kgdb, "%llu\n");

static int put_foreign_kgdb(void *data, u64 value)
{
	return break_at(sysfs_streq);
}
DEFINE_DEBUGFS_ATTRIBUTE(foreign_kgdb_fops, NULL, put_foreign_kgdb, "%llu\n");

/* What the last race came to. */
static u64 race_rounds, race_runs, race_wrong;

/* Both sites again and again. A torn instruction would not return 0 or 1. */
static int run_both(void *unused)
{
	while (!kthread_should_stop()) {
		for (int i = 0; i < 100; i++) {
			unsigned int key = run_key(), call = run_call();

			race_runs++;
			if (key > 1 || call > 1)
				race_wrong++;
		}
		cond_resched();
	}
	return 0;
}

static int put_race(void *data, u64 rounds)
{
	struct task_struct *runner;

	if (!rounds || rounds > MAX_ROUNDS)
		return -EINVAL;
	guard(mutex)(&living_lock);
	race_rounds = 0;
	race_runs = 0;
	race_wrong = 0;
	runner = kthread_run(run_both, NULL, "heki_living");
	if (IS_ERR(runner))
		return PTR_ERR(runner);
	for (u64 i = 0; i < rounds; i++) {
		bool on = i & 1;

		set_key(on);
		set_call(on);
		if (run_key() != on || run_call() != on)
			race_wrong++;
		race_rounds++;
	}
	kthread_stop(runner);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(race_fops, NULL, put_race, "%llu\n");

static int result_show(struct seq_file *m, void *unused)
{
	guard(mutex)(&living_lock);
	seq_printf(m, "rounds=%llu runs=%llu wrong=%llu\n", race_rounds, race_runs, race_wrong);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(result);

static int __init heki_living_init(void)
{
	memcpy(probed_text, (void *)kstrtobool, sizeof(probed_text));
	dir = debugfs_create_dir("heki_living", NULL);
	debugfs_create_file("key", 0600, dir, NULL, &key_fops);
	debugfs_create_file("call", 0600, dir, NULL, &call_fops);
	debugfs_create_file("probe", 0600, dir, NULL, &probe_fops);
	debugfs_create_file("probe_text", 0400, dir, NULL, &probe_text_fops);
	debugfs_create_file("foreign_probe", 0200, dir, NULL, &foreign_probe_fops);
	debugfs_create_file("kgdb", 0200, dir, NULL, &kgdb_fops);
	debugfs_create_file("foreign_kgdb", 0200, dir, NULL, &foreign_kgdb_fops);
	debugfs_create_file("race", 0200, dir, NULL, &race_fops);
	debugfs_create_file("result", 0400, dir, NULL, &result_fops);
	figures_init(dir);
	return 0;
}
module_init(heki_living_init);

static void __exit heki_living_exit(void)
{
	debugfs_remove(dir);
	set_probe(&probe, PROBED, &is_probed, false);
	set_probe(&foreign_probe, FOREIGN, &is_foreign_probed, false);
}
module_exit(heki_living_exit);

MODULE_DESCRIPTION("A module that changes its own text, to test Heki");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
