// SPDX-License-Identifier: GPL-2.0
/*
 * Denials without end, for whoever looks at what they cost the host.
 *
 * Write a number into debugfs/heki_attack/flood: so often a byte of text is
 * written with what it holds. Read what became of it: "denied=N of M".
 *
 * Neighbours: main.c, which makes the file; write.c. Locks: flood_lock.
 */
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include <asm/trapnr.h>

#include "heki_attack.h"

#define MAX_WRITES	1000000

static DEFINE_MUTEX(flood_lock);
static u64 denied, tried;

static int flood(u64 nr)
{
	struct attack_report report = {};
	const u8 *target = find_target(&report);
	u8 *alias;

	if (nr > MAX_WRITES)
		return -EINVAL;
	if (!target)
		return -ENOENT;
	alias = map_writable(target);
	if (!alias)
		return -ENOMEM;

	guard(mutex)(&flood_lock);
	denied = 0;
	for (tried = 0; tried < nr; tried++) {
		denied += try_write(alias, *target) == X86_TRAP_GP;
		cond_resched();
	}
	unmap_writable(alias);
	return 0;
}

static int flood_show(struct seq_file *m, void *unused)
{
	guard(mutex)(&flood_lock);
	seq_printf(m, "denied=%llu of %llu\n", denied, tried);
	return 0;
}

static ssize_t flood_write(struct file *file, const char __user *ubuf, size_t len, loff_t *ppos)
{
	u64 nr;
	int ret = kstrtou64_from_user(ubuf, len, 0, &nr);

	if (!ret)
		ret = flood(nr);
	return ret ?: len;
}

static int flood_open(struct inode *inode, struct file *file)
{
	return single_open(file, flood_show, NULL);
}

const struct file_operations flood_fops = {
	.owner = THIS_MODULE,
	.open = flood_open,
	.read = seq_read,
	.write = flood_write,
	.llseek = seq_lseek,
	.release = single_release,
};
