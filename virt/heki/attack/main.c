// SPDX-License-Identifier: GPL-2.0
/*
 * heki_attack: attacks on a guest kernel by code that runs in it. Test only.
 *
 * Load it before the seal. Write the name of an attack into
 * debugfs/heki_attack/run and read the result there; debugfs/heki_attack/list
 * names them all; debugfs/heki_attack/oops is that of oops.c, flood that of
 * flood.c, sleep that of sleep.c. What an attack changed it puts back, so that the
 * kernel lives on where nothing stopped it.
 *
 * Neighbours: attacks.h, the list; tools.c, write.c, exec.c, cr.c, msr.c, patch.c, grant.c,
 * disk.c, oops.c, flood.c, sleep.c.
 * Locks: attack_lock, one attack at a time.
 */
#define pr_fmt(fmt) "heki_attack: " fmt

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <asm/trapnr.h>

#include "heki_attack.h"

static const struct attack attacks[] = {
#define ATTACK(name, class, what, run) { name, class, what, run },
#include "attacks.h"
};

static const char *const class_names[] = {
	[ATTACK_WRITE] = "write",
	[ATTACK_EXEC] = "exec",
	[ATTACK_CR] = "cr",
	[ATTACK_MSR] = "msr",
	[ATTACK_DT] = "dt",
	[ATTACK_ALLOWED] = "allowed",
};

static DEFINE_MUTEX(attack_lock);
static const struct attack *last;
static struct attack_report last_report;
static struct dentry *dir;

/* Adds one step: a denial, which is #GP, must have been seen and must have held. */
void attack_judge(struct attack_report *report, int trap, bool changed)
{
	if (changed) {
		attack_say(report, ATTACK_SUCCEEDED,
			   trap ? "changed in spite of exception %d" : "changed", trap);
		return;
	}
	if (trap != X86_TRAP_GP) {
		attack_say(report, ATTACK_INCONCLUSIVE,
			   trap ? "exception %d, which is none of the host's" :
				  "no exception and no change", trap);
		return;
	}
	report->denials++;
	if (report->outcome == ATTACK_NOT_RUN || report->outcome == ATTACK_DENIED)
		attack_say(report, ATTACK_DENIED, "exception %d, unchanged", trap);
}

/* The same for a request, which the host must have refused. */
void attack_judge_request(struct attack_report *report, long ret, bool changed)
{
	if (changed) {
		attack_say(report, ATTACK_SUCCEEDED, "changed, request returned %ld", ret);
		return;
	}
	if (!ret) {
		attack_say(report, ATTACK_INCONCLUSIVE, "not refused and no change");
		return;
	}
	report->denials++;
	if (report->outcome == ATTACK_NOT_RUN || report->outcome == ATTACK_DENIED)
		attack_say(report, ATTACK_DENIED, "refused with %ld, unchanged", ret);
}

/* Sets the outcome; a success of an earlier step stays one. */
void attack_say(struct attack_report *report, enum attack_outcome outcome,
		const char *fmt, ...)
{
	va_list args;

	if (report->outcome == ATTACK_SUCCEEDED)
		return;
	report->outcome = outcome;
	va_start(args, fmt);
	vscnprintf(report->detail, sizeof(report->detail), fmt, args);
	va_end(args);
}

static const char *outcome_name(const struct attack *attack,
				const struct attack_report *report)
{
	bool control = attack->class == ATTACK_ALLOWED;

	switch (report->outcome) {
	case ATTACK_SUCCEEDED:
		return control ? "allowed" : "succeeded";
	case ATTACK_DENIED:
		return control ? "broken" : "denied";
	case ATTACK_ABSENT:
		return "absent";
	default:
		return "inconclusive";
	}
}

static const struct attack *find_attack(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		if (!strcmp(attacks[i].name, name))
			return &attacks[i];
	return NULL;
}

static ssize_t run_write(struct file *file, const char __user *ubuf,
			 size_t len, loff_t *ppos)
{
	const struct attack *attack;
	char name[32] = "";

	if (len >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, ubuf, len))
		return -EFAULT;
	attack = find_attack(strim(name));
	if (!attack)
		return -EINVAL;

	guard(mutex)(&attack_lock);
	memset(&last_report, 0, sizeof(last_report));
	last = attack;
	attack->run(&last_report);
	return len;
}

static int run_show(struct seq_file *m, void *unused)
{
	guard(mutex)(&attack_lock);
	if (!last)
		return 0;
	seq_printf(m, "%s %s class=%s denials=%u %s\n", last->name,
		   outcome_name(last, &last_report), class_names[last->class],
		   last_report.denials, last_report.detail);
	return 0;
}

static int run_open(struct inode *inode, struct file *file)
{
	return single_open(file, run_show, NULL);
}

static const struct file_operations run_fops = {
	.owner = THIS_MODULE,
	.open = run_open,
	.read = seq_read,
	.write = run_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int list_show(struct seq_file *m, void *unused)
{
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		seq_printf(m, "%s %s %s\n", attacks[i].name,
			   class_names[attacks[i].class], attacks[i].what);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(list);

static int __init heki_attack_init(void)
{
	int ret = tools_init();

	if (ret)
		return ret;
	ret = patch_init();
	if (ret)
		goto err_tools;
	ret = grant_init();
	if (ret)
		goto err_patch;
	ret = sleep_init();
	if (ret)
		goto err_grant;
	neighbour_init();
	dir = debugfs_create_dir("heki_attack", NULL);
	debugfs_create_file("run", 0600, dir, NULL, &run_fops);
	debugfs_create_file("list", 0400, dir, NULL, &list_fops);
	debugfs_create_file("oops", 0200, dir, NULL, &oops_fops);
	debugfs_create_bool("sleep", 0600, dir, &sleep_allowed);
	debugfs_create_file("flood", 0600, dir, NULL, &flood_fops);
	pr_warn("this module attacks the kernel it runs in; never load it outside a test\n");
	return 0;

err_grant:
	grant_exit();
err_patch:
	patch_exit();
err_tools:
	tools_exit();
	return ret;
}
module_init(heki_attack_init);

static void __exit heki_attack_exit(void)
{
	debugfs_remove(dir);
	neighbour_exit();
	sleep_exit();
	grant_exit();
	patch_exit();
	tools_exit();
}
module_exit(heki_attack_exit);

MODULE_DESCRIPTION("Attacks on a guest kernel, to test Heki");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
