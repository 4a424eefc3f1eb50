// SPDX-License-Identifier: GPL-2.0
/*
 * The C half of heki_guest; see shim.h.
 *
 * It owns the module's init, on purpose not __init: the host takes the right
 * to run and to write away from what it is not told of, while init is still
 * running, and freed init text would be written by the kernel afterwards. So
 * this module has no init text at all. It has no exit either: a seal is for
 * good.
 *
 * Neighbours: ffi.rs. Locks: none of its own.
 */
#define pr_fmt(fmt) "heki: " fmt

#include <linux/cpu.h>
#include <linux/efi.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/kexec.h>
#include <linux/kvm_para.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/notifier.h>
#include <linux/pgtable.h>
#include <linux/rculist.h>
#include <linux/reboot.h>
#include <linux/sizes.h>
#include <linux/string.h>
#include <linux/suspend.h>
#include <linux/timekeeping.h>
#include <linux/workqueue.h>

#include <asm/desc.h>
#include <asm/special_insns.h>

#include <uapi/linux/heki.h>

#include "shim.h"

static char *require;
module_param(require, charp, 0444);
MODULE_PARM_DESC(require, "Protections without which loading fails: any of write,exec,cr");

static int heki_guest_init(void)
{
	return heki_guest_load(require ?: "");
}
module_init(heki_guest_init);

MODULE_DESCRIPTION("Heki: have the hypervisor seal this kernel's memory");
MODULE_LICENSE("GPL");

bool heki_shim_on_kvm(void)
{
	return kvm_para_available();
}

long heki_shim_hypercall(u64 op, u64 gpa, u64 len)
{
	return kvm_hypercall4(KVM_HC_HEKI, op, gpa, len, 0);
}

/* Of memory from kmalloc(), which is contiguous. */
u64 heki_shim_gpa(const void *ptr)
{
	return virt_to_phys((void *)ptr);
}

/* The IDT's page, 0 if this CPU has none. */
u64 heki_shim_idt(void)
{
	struct desc_ptr idt;
	unsigned int level;

	store_idt(&idt);
	if (!lookup_address(idt.address, &level))
		return 0;
	return slow_virt_to_phys((void *)idt.address) & PAGE_MASK;
}

void heki_shim_areas(struct heki_areas *areas)
{
	areas->image = __START_KERNEL_map;
	areas->modules = MODULES_VADDR;
	areas->modules_end = MODULES_END;
	areas->low = PAGE_OFFSET;
	areas->low_end = PAGE_OFFSET + SZ_1M;
}

/*
 * With interrupts off: who frees a page-table page waits for this CPU. The
 * hardware's own present bit counts; pte_present() would take PROT_NONE too.
 */
void heki_shim_leaf(u64 addr, struct heki_leaf *leaf)
{
	unsigned long irq_flags;
	unsigned int level;
	u64 flags = 0;
	pte_t *pte;

	memset(leaf, 0, sizeof(*leaf));
	local_irq_save(irq_flags);
	pte = lookup_address(addr, &level);
	leaf->size = page_level_size(level);
	if (pte)
		flags = pte_flags(*pte);
	if (flags & _PAGE_PRESENT) {
		leaf->present = true;
		leaf->writable = flags & _PAGE_RW;
		leaf->executable = !(flags & _PAGE_NX);
		leaf->phys = slow_virt_to_phys((void *)(addr & page_level_mask(level)));
	}
	local_irq_restore(irq_flags);
}

u64 heki_shim_cr0(void)
{
	return read_cr0();
}

u64 heki_shim_cr4(void)
{
	return __read_cr4();
}

void heki_shim_clock(struct heki_clock *clock)
{
	struct system_time_snapshot snapshot;

	ktime_get_snapshot_id(CLOCK_MONOTONIC, &snapshot);
	clock->early = snapshot.cs_id == CSID_X86_TSC_EARLY;
	clock->changes = snapshot.cs_was_changed_seq;
}

/*
 * Waits for what the module loader left to the workqueue: the init text of
 * modules loaded before, which is written when freed. The second round is for
 * work that the first one queued.
 */
void heki_shim_quiesce(void)
{
	__flush_workqueue(system_percpu_wq);
	__flush_workqueue(system_percpu_wq);
}

/* The list's head is on it as well; it alone is not in the module area. */
static bool is_module(const struct module *mod)
{
	unsigned long addr = (unsigned long)mod;

	return addr >= MODULES_VADDR && addr < MODULES_END;
}

/* Whether no module but this one is being loaded or unloaded. */
bool heki_shim_modules_settled(void)
{
	struct module *mod;

	guard(rcu)();
	list_for_each_entry_rcu(mod, &THIS_MODULE->list, list)
		if (is_module(mod) && mod->state != MODULE_STATE_LIVE)
			return false;
	return true;
}

/*
 * Writes /proc/sys/@path, through a mount of its own: what the caller's /proc
 * is does not matter.
 */
int heki_shim_sysctl(const char *path, const char *value)
{
	struct file_system_type *proc = get_fs_type("proc");
	struct vfsmount *mnt;
	struct file *file;
	ssize_t ret;

	if (!proc)
		return -ENODEV;
	mnt = kern_mount(proc);
	module_put(proc->owner);
	if (IS_ERR(mnt))
		return PTR_ERR(mnt);

	file = file_open_root_mnt(mnt, path, O_WRONLY, 0);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
	} else {
		ret = kernel_write(file, value, strlen(value), NULL);
		filp_close(file, NULL);
	}
	kern_unmount(mnt);
	return ret < 0 ? ret : 0;
}

bool heki_shim_crash_kernel(void)
{
	return kexec_crash_loaded();
}

static int pm_event(struct notifier_block *nb, unsigned long event, void *unused)
{
	switch (event) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		pr_warn("suspend and hibernation are refused: this kernel is sealed\n");
		return notifier_from_errno(-EPERM);
	default:
		return NOTIFY_DONE;
	}
}

/* Before all others, which would have to undo what they prepared. */
static struct notifier_block pm_notifier = {
	.notifier_call = pm_event,
	.priority = INT_MAX,
};

/* Of an image that was loaded before the seal; no new one can be. */
static int reboot_event(struct notifier_block *nb, unsigned long event, void *cmd)
{
	if (event != SYS_RESTART || !cmd || strcmp(cmd, "kexec reboot"))
		return NOTIFY_DONE;
	pr_emerg("kexec is refused: this kernel is sealed; restarting the machine instead\n");
	emergency_restart();
	return NOTIFY_DONE;
}

static struct notifier_block reboot_notifier = {
	.notifier_call = reboot_event,
	.priority = INT_MAX,
};

/* Refuses, in the kernel, what would break it; heki_shim_unblock() undoes it. */
int heki_shim_block(void)
{
	int ret = register_pm_notifier(&pm_notifier);

	if (ret)
		return ret;
	ret = register_reboot_notifier(&reboot_notifier);
	if (ret) {
		unregister_pm_notifier(&pm_notifier);
		return ret;
	}
	cpu_hotplug_disable();
	return 0;
}

void heki_shim_unblock(void)
{
	cpu_hotplug_enable();
	unregister_reboot_notifier(&reboot_notifier);
	unregister_pm_notifier(&pm_notifier);
}

/*
 * Firmware code is no kernel text and could not run. Without the flag, every
 * caller gets an error instead. Returns whether it was set.
 */
bool heki_shim_stop_efi(void)
{
	if (!IS_ENABLED(CONFIG_EFI) || !efi_enabled(EFI_RUNTIME_SERVICES))
		return false;
	clear_bit(EFI_RUNTIME_SERVICES, &efi.flags);
	return true;
}
