// SPDX-License-Identifier: GPL-2.0
/*
 * heki_attack: attacks on a guest kernel by code that runs in it. Test only.
 *
 * Load it before the seal. Write the name of an attack into
 * debugfs/heki_attack/run and read the result there; debugfs/heki_attack/list
 * names them all; debugfs/heki_attack/oops is that of oops.c, flood that of
 * flood.c, sleep that of sleep.c. What an attack changed it puts back, so that the
 * kernel lives on where nothing stopped it. To add one: a function and a table entry.
 *
 * Neighbours: tools.c, write.c, exec.c, cr.c, msr.c, patch.c, grant.c,
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

#include "heki_attack.h"

static const struct attack attacks[] = {
	{ "text-direct-map", ATTACK_WRITE, "write text through the direct map made writable",
	  attack_text_direct_map },
	{ "text-vmap", ATTACK_WRITE, "write text through a vmap alias",
	  attack_text_vmap },
	{ "text-split-mapping", ATTACK_WRITE, "split and rebuild the large page mapping of text, write each time",
	  attack_text_split },
	{ "rodata", ATTACK_WRITE, "write read-only data made writable in place",
	  attack_rodata },
	{ "ro-after-init", ATTACK_WRITE, "write a ro_after_init variable made writable in place",
	  attack_ro_after_init },
	{ "module-text", ATTACK_WRITE, "write module text made writable in place",
	  attack_module_text },
	{ "idt", ATTACK_WRITE, "write the interrupt table through the direct map made writable",
	  attack_idt },
	{ "trampoline", ATTACK_WRITE, "write the code that starts CPUs, likewise",
	  attack_trampoline },
	{ "exec-vmalloc", ATTACK_EXEC, "run a fresh vmalloc page made executable",
	  attack_exec_vmalloc },
	{ "exec-data", ATTACK_EXEC, "run code placed in .data",
	  attack_exec_data },
	{ "exec-new-memory", ATTACK_EXEC, "run code placed in memory that the kernel did not have at the seal",
	  attack_exec_new_memory },
	{ "exec-user-alias", ATTACK_EXEC, "run a user page through its supervisor alias",
	  attack_exec_user_alias },
	{ "exec-user-smep", ATTACK_EXEC, "run a user page with SMEP cleared",
	  attack_exec_user_smep },
	{ "cr0-ne", ATTACK_CR, "clear CR0.NE on every vCPU", attack_cr0_ne },
	{ "cr0-wp", ATTACK_CR, "clear CR0.WP on every vCPU", attack_cr0_wp },
	{ "cr0-am", ATTACK_CR, "clear CR0.AM on every vCPU", attack_cr0_am },
	{ "cr4-smep", ATTACK_CR, "clear CR4.SMEP on every vCPU", attack_cr4_smep },
	{ "cr4-smap", ATTACK_CR, "clear CR4.SMAP on every vCPU", attack_cr4_smap },
	{ "cr4-umip", ATTACK_CR, "clear CR4.UMIP on every vCPU", attack_cr4_umip },
	{ "cr4-fsgsbase", ATTACK_CR, "clear CR4.FSGSBASE on every vCPU", attack_cr4_fsgsbase },
	{ "cr4-cet", ATTACK_CR, "clear CR4.CET on every vCPU", attack_cr4_cet },
	{ "idtr", ATTACK_DT, "move the interrupt table on every vCPU", attack_idtr },
	{ "gdtr", ATTACK_DT, "move the segment table on every vCPU", attack_gdtr },
	{ "idtr-limit", ATTACK_DT, "cut the interrupt table on every vCPU", attack_idtr_limit },
	{ "gdtr-limit", ATTACK_DT, "cut the segment table on every vCPU", attack_gdtr_limit },
	{ "ldtr", ATTACK_DT, "load a local segment table from another entry on every vCPU", attack_ldtr },
	{ "tr", ATTACK_DT, "load another task state segment on every vCPU", attack_tr },
	{ "xcr0", ATTACK_MSR, "change XCR0 on every vCPU", attack_xcr0 },
	{ "efer-sce", ATTACK_MSR, "clear EFER.SCE on every vCPU", attack_efer },
	{ "star", ATTACK_MSR, "change STAR on every vCPU", attack_star },
	{ "lstar", ATTACK_MSR, "move the entry of system calls on every vCPU", attack_lstar },
	{ "cstar", ATTACK_MSR, "change CSTAR on every vCPU", attack_cstar },
	{ "sfmask", ATTACK_MSR, "have system calls enter with interrupts on on every vCPU", attack_sfmask },
	{ "sysenter-cs", ATTACK_MSR, "change SYSENTER_CS on every vCPU", attack_sysenter_cs },
	{ "sysenter-esp", ATTACK_MSR, "move the stack of SYSENTER on every vCPU", attack_sysenter_esp },
	{ "sysenter-eip", ATTACK_MSR, "move the entry of SYSENTER on every vCPU", attack_sysenter_eip },
	{ "pat", ATTACK_MSR, "change the PAT on every vCPU", attack_pat },
	{ "apic-base", ATTACK_MSR, "move the APIC on every vCPU", attack_apic_base },
	{ "misc-enable", ATTACK_MSR, "change MISC_ENABLE on every vCPU", attack_misc_enable },
	{ "xss", ATTACK_MSR, "change XSS on every vCPU", attack_xss },
	{ "s-cet", ATTACK_MSR, "change S_CET on every vCPU", attack_s_cet },
	{ "pl0-ssp", ATTACK_MSR, "set a supervisor shadow stack on every vCPU", attack_pl0_ssp },
	{ "pl1-ssp", ATTACK_MSR, "likewise of ring 1", attack_pl1_ssp },
	{ "pl2-ssp", ATTACK_MSR, "likewise of ring 2", attack_pl2_ssp },
	{ "ssp-table", ATTACK_MSR, "move the table of interrupts' shadow stacks on every vCPU", attack_ssp_table },
	{ "feature-control", ATTACK_MSR, "change FEATURE_CONTROL on every vCPU", attack_feature_control },
	{ "vm-cr", ATTACK_MSR, "change VM_CR on every vCPU", attack_vm_cr },
	{ "tsx-ctrl", ATTACK_MSR, "change TSX_CTRL on every vCPU", attack_tsx_ctrl },
	{ "de-cfg", ATTACK_MSR, "have LFENCE not serialize on every vCPU", attack_de_cfg },
	{ "patch-unlisted", ATTACK_WRITE, "have the host change text where no site is",
	  attack_patch_unlisted },
	{ "patch-target", ATTACK_WRITE, "have the host make a jump label jump elsewhere",
	  attack_patch_target },
	{ "patch-truncated", ATTACK_WRITE, "have the host change half of an instruction",
	  attack_patch_truncated },
	{ "patch-shifted", ATTACK_WRITE, "have the host change a site from its second byte on",
	  attack_patch_shifted },
	{ "patch-across", ATTACK_WRITE, "have the host change text across two pages",
	  attack_patch_across },
	{ "patch-int3", ATTACK_WRITE, "have the host put a breakpoint at a site",
	  attack_patch_int3 },
	{ "patch-old", ATTACK_WRITE, "have the host change a site that holds something else",
	  attack_patch_old },
	{ "patch-replay", ATTACK_WRITE, "have the host make a change a second time",
	  attack_patch_replay },
	{ "patch-batch", ATTACK_WRITE, "have the host take one bad change among 255 good ones",
	  attack_patch_batch },
	{ "patch-race", ATTACK_WRITE, "change a request while the host looks at it",
	  attack_patch_race },
	{ "patch-frozen", ATTACK_WRITE, "have the host flip a key that the VMM froze",
	  attack_patch_frozen },
	{ "jump-forged", ATTACK_WRITE, "have the kernel flip such a key through a forged jump entry",
	  attack_jump_forged },
	{ "patch-rodata", ATTACK_WRITE, "have the host change read-only data",
	  attack_patch_rodata },
	{ "patch-data", ATTACK_WRITE, "have the host change data as if it were text",
	  attack_patch_data },
	{ "call-middle", ATTACK_WRITE, "have the host make a static call call the middle of a function",
	  attack_call_middle },
	{ "call-type", ATTACK_WRITE, "have the host make a static call call a function of another type",
	  attack_call_type },
	{ "release-text", ATTACK_WRITE, "have the host make text writable",
	  attack_release_text },
	{ "grant-code", ATTACK_EXEC, "have the host let a page of code run",
	  attack_grant_code },
	{ "grant-pool", ATTACK_EXEC, "have the host let a page of the pool run with other content",
	  attack_grant_pool },
	{ "grant-trampoline", ATTACK_EXEC, "have the host let a forged trampoline of ftrace run",
	  attack_grant_trampoline },
	{ "grant-race", ATTACK_EXEC, "write a page of the pool while the host looks at it",
	  attack_grant_race },
	{ "disk-text", ATTACK_WRITE, "have the disk read into text",
	  attack_disk_text },
	{ "neighbour", ATTACK_ALLOWED, "write a page in the same 2 MiB frame as a sealed one",
	  attack_neighbour },
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

/* Adds one step: a denial must have been seen and must have held. */
void attack_judge(struct attack_report *report, int trap, bool changed)
{
	if (changed) {
		attack_say(report, ATTACK_SUCCEEDED,
			   trap ? "changed in spite of exception %d" : "changed", trap);
		return;
	}
	if (!trap) {
		attack_say(report, ATTACK_INCONCLUSIVE, "no exception and no change");
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
