// SPDX-License-Identifier: GPL-2.0
/*
 * heki_livepatch: a live patch of what /proc/version says. Test only.
 *
 * It is applied when it is loaded with now=1, or else when 1 is written to
 * debugfs/heki_livepatch, once. As any live patch it is taken back through
 * /sys/kernel/livepatch.
 *
 * Neighbours: none. Locks: none; applied once is enough.
 */
#include <linux/debugfs.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>

static bool now;
module_param(now, bool, 0);
MODULE_PARM_DESC(now, "Apply it at once");

static atomic_t applied = ATOMIC_INIT(0);
static struct dentry *file;

static int show_patched(struct seq_file *m, void *v)
{
	seq_puts(m, "patched\n");
	return 0;
}

static struct klp_func funcs[] = {
	{ .old_name = "version_proc_show", .new_func = show_patched },
	{ }
};

static struct klp_object objs[] = {
	{ .funcs = funcs },
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int apply(void *data, u64 value)
{
	if (value != 1)
		return -EINVAL;
	if (atomic_xchg(&applied, 1))
		return -EBUSY;
	return klp_enable_patch(&patch);
}
DEFINE_DEBUGFS_ATTRIBUTE(apply_fops, NULL, apply, "%llu\n");

static int __init heki_livepatch_init(void)
{
	if (now)
		return apply(NULL, 1);
	file = debugfs_create_file("heki_livepatch", 0200, NULL, NULL, &apply_fops);
	return 0;
}
module_init(heki_livepatch_init);

static void __exit heki_livepatch_exit(void)
{
	debugfs_remove(file);
}
module_exit(heki_livepatch_exit);

MODULE_DESCRIPTION("A live patch, to test Heki");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_INFO(test, "Y");
