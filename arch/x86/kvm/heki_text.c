// SPDX-License-Identifier: GPL-2.0
/*
 * Heki's x86 glue for changes of sealed text: heki_glue_*(), called by
 * virt/kvm/heki/kvm/text.rs only.
 *
 * The host writes guest text itself, on the guest's behalf and after the rules
 * allowed it, so the refusals for KVM's own writers (kvm_heki_gfn_readonly())
 * do not apply here. All pages are pinned before the first byte changes: what
 * may fail or sleep comes before, so that all of a request happens or nothing.
 *
 * Locks: kvm->slots_lock is held, kvm->srcu is not.
 */
#include <linux/highmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/preempt.h>

#include "heki.h"

int heki_glue_read_memory(struct kvm *kvm, u64 gpa, void *data, u32 len)
{
	lockdep_assert_held(&kvm->slots_lock);

	return kvm_read_guest(kvm, gpa, data, len);
}

/* The page of @gfn for writing, NULL if the VMM's own mapping is not writable. */
struct page *heki_glue_pin_page(struct kvm *kvm, u64 gfn)
{
	struct kvm_memory_slot *slot;
	struct page *page;
	unsigned long hva;

	lockdep_assert_held(&kvm->slots_lock);

	slot = gfn_to_memslot(kvm, gfn);
	if (!kvm_is_visible_memslot(slot) || slot->flags & KVM_MEM_READONLY)
		return NULL;

	hva = __gfn_to_hva_memslot(slot, gfn);
	if (pin_user_pages_fast(hva, 1, FOLL_WRITE, &page) != 1)
		return NULL;
	return page;
}

void heki_glue_unpin_page(struct kvm *kvm, u64 gfn, struct page *page, bool dirty)
{
	if (dirty)
		mark_page_dirty(kvm, gfn);
	unpin_user_pages_dirty_lock(&page, 1, dirty);
}

void heki_glue_read_page(struct page *page, u32 offset, void *data, u32 len)
{
	memcpy_from_page(data, page, offset, len);
}

void heki_glue_write_page(struct page *page, u32 offset, const void *data, u32 len)
{
	memcpy_to_page(page, offset, data, len);
}

/*
 * How many pages a change may write. What it logs at one exit of a vCPU must fit into
 * what the ring keeps free for an exit, beside what else the exit logs.
 */
u32 heki_glue_max_pages(struct kvm *kvm)
{
	return kvm->dirty_ring_size ? KVM_DIRTY_RING_RSVD_ENTRIES / 2 : U32_MAX;
}

/*
 * From when this returns to heki_glue_let_vcpus_in(), no vCPU runs guest code:
 * the request stays pending, and no vCPU enters the guest with one. A vCPU that is
 * created meanwhile waits in kvm_heki_reload(). Nobody takes this CPU meanwhile: it
 * might be a vCPU, which would wait for what it keeps from running.
 */
void heki_glue_keep_vcpus_out(struct kvm *kvm)
{
	preempt_disable();
	kvm_make_all_cpus_request(kvm, KVM_REQ_HEKI_PATCH);
}

/* Entering the guest serializes, so each vCPU fetches what was written. */
void heki_glue_let_vcpus_in(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm)
		kvm_clear_request(KVM_REQ_HEKI_PATCH, vcpu);
	preempt_enable();
}
