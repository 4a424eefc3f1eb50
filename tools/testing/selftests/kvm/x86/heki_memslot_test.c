// SPDX-License-Identifier: GPL-2.0
/*
 * Memslots under a seal: rights belong to the guest frame, not to the slot or the
 * host memory behind it. They outlive the slot and hold for whatever comes after.
 *
 * heki_clamp_test has the dirty log and new host pages of a slot that stays,
 * heki_level_test the large pages of a slot in hugetlbfs.
 */
#include "kvm_test_harness.h"
#include "heki.h"

#define SEALED		0
#define OPEN		1
#define LISTED		8	/* with an allow-list */
#define UNLISTED	9
#define MOVED_GPA	0x50000000ull
#define SLOT_BYTES	(HEKI_TEST_PAGES * PAGE_SIZE)
#define FRAME(nr)	((nr) * 512)	/* first page of a 2 MiB frame */

FIXTURE(slot) {
	struct heki_vm h;
	void *hva;
};

FIXTURE_VARIANT(slot) {
	u32 flags;	/* that the slot has before and after */
	bool listed;	/* the seal is an allow-list */
};

FIXTURE_VARIANT_ADD(slot, plain) { .flags = 0 };
FIXTURE_VARIANT_ADD(slot, logged) { .flags = KVM_MEM_LOG_DIRTY_PAGES };
FIXTURE_VARIANT_ADD(slot, listed) { .listed = true };
FIXTURE_VARIANT_ADD(slot, listed_logged) { .flags = KVM_MEM_LOG_DIRTY_PAGES, .listed = true };

static int try_set(struct heki_vm *h, u32 flags, u64 gpa, u64 len, void *hva)
{
	return __vm_set_user_memory_region(h->vm, HEKI_TEST_SLOT, flags, gpa, len, hva) ?
	       errno : 0;
}

static void set(struct heki_vm *h, u32 flags, u64 gpa, u64 len, void *hva)
{
	int error = try_set(h, flags, gpa, len, hva);

	TEST_ASSERT(!error, "KVM refuses a memslot: %s", strerror(error));
}

static void delete(struct heki_vm *h)
{
	set(h, 0, HEKI_TEST_GPA, 0, NULL);
}

/* Code in both pages, of the memory that begins at @gpa. */
static void put_code(struct heki_vm *h, u64 gpa)
{
	heki_put_code(h, gpa + LISTED * PAGE_SIZE);
	heki_put_code(h, gpa + UNLISTED * PAGE_SIZE);
}

static void seal_list(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_exec_request(h);

	heki_add_page(req, SEALED);
	heki_add_range(req, HEKI_PAGE(LISTED), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT);
	heki_seal_exec(h, req);
}

FIXTURE_SETUP(slot)
{
	struct heki_vm *h = &self->h;

	heki_vm_create(h, 1);
	if (variant->listed && !heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	self->hva = heki_hva(h, HEKI_TEST_GPA);
	set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	TEST_ASSERT(heki_is_writable(h, h->vcpu[0], SEALED), "A page is sealed before the seal");
	put_code(h, HEKI_TEST_GPA);
	ASSERT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(UNLISTED)));
	if (variant->listed)
		seal_list(h);
	else
		heki_seal_page(h, SEALED);
}

FIXTURE_TEARDOWN(slot)
{
	heki_vm_free(&self->h);
}

/* What is listed runs and, if there is a list, nothing else does. */
static bool list_holds(struct heki_vm *h)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];

	if (heki_call(vcpu, guest_exec, HEKI_PAGE(LISTED)))
		return false;
	return heki_query(h).held & HEKI_PROT_EXEC ?
	       heki_cannot_run(vcpu, HEKI_PAGE(UNLISTED)) :
	       !heki_call(vcpu, guest_exec, HEKI_PAGE(UNLISTED));
}

/* The seal is there, and the slot is of use. */
static bool holds(struct heki_vm *h)
{
	return heki_is_sealed(h, h->vcpu[0], SEALED) && heki_is_writable(h, h->vcpu[0], OPEN) &&
	       list_holds(h);
}

HEKI_TEST(slot, a_seal_outlives_its_slot)
{
	struct heki_vm *h = &self->h;

	delete(h);
	set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	EXPECT_TRUE(holds(h));
}

/* Without a slot a write would be one to a device, which the VMM carries out. */
HEKI_TEST(slot, there_is_no_write_without_a_slot)
{
	struct heki_vm *h = &self->h;

	heki_calm_page(h, SEALED);
	delete(h);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, HEKI_PAGE(SEALED), HEKI_ATTACK));
	set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_TRUE(holds(h));
}

/* KVM takes no other address for a slot; a new slot is clamped as the old one was. */
HEKI_TEST(slot, other_memory_is_sealed_too)
{
	struct heki_vm *h = &self->h;
	void *other = self->hva + SLOT_BYTES / 2;

	EXPECT_EQ(EINVAL, try_set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES, other));
	delete(h);
	set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES / 2, other);
	memset(other, 0, 2 * PAGE_SIZE);
	put_code(h, HEKI_TEST_GPA + SLOT_BYTES / 2);
	EXPECT_TRUE(list_holds(h));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, HEKI_PAGE(SEALED), HEKI_ATTACK));
	EXPECT_EQ(0, READ_ONCE(*(u64 *)other));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_write, HEKI_PAGE(OPEN), HEKI_ATTACK));
	EXPECT_EQ(HEKI_ATTACK, READ_ONCE(*(u64 *)(other + PAGE_SIZE)));
}

/* The frame stays sealed where it is; the memory that was there is like any other. */
HEKI_TEST(slot, a_move_leaves_the_seal_behind)
{
	struct heki_vm *h = &self->h;

	virt_pg_map(h->vm, MOVED_GPA, MOVED_GPA);
	heki_calm_page(h, SEALED);
	set(h, variant->flags, MOVED_GPA, SLOT_BYTES, self->hva);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, HEKI_PAGE(SEALED), HEKI_ATTACK));
	EXPECT_EQ(HEKI_CALM, READ_ONCE(*(u64 *)self->hva));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_write, MOVED_GPA, HEKI_ATTACK));
	EXPECT_EQ(HEKI_ATTACK, READ_ONCE(*(u64 *)self->hva));
	if (variant->listed) {
		virt_pg_map(h->vm, MOVED_GPA + LISTED * PAGE_SIZE, MOVED_GPA + LISTED * PAGE_SIZE);
		EXPECT_TRUE(heki_cannot_run(h->vcpu[0], MOVED_GPA + LISTED * PAGE_SIZE));
	}

	set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	EXPECT_TRUE(holds(h));
}

/* A slot that is read-only makes a write an MMIO exit, but not of a sealed page. */
HEKI_TEST(slot, a_read_only_slot_has_no_exit_for_a_sealed_page)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];

	EXPECT_EQ(EINVAL, try_set(h, variant->flags | KVM_MEM_READONLY, HEKI_TEST_GPA, SLOT_BYTES,
				  self->hva));
	delete(h);
	set(h, KVM_MEM_READONLY, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	EXPECT_TRUE(heki_is_sealed(h, vcpu, SEALED));
	EXPECT_TRUE(list_holds(h));
	heki_prepare_call(vcpu, guest_write, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(OPEN), HEKI_ATTACK });
	vcpu_run(vcpu);
	EXPECT_EQ(KVM_EXIT_MMIO, vcpu->run->exit_reason);
	EXPECT_EQ(HEKI_PAGE(OPEN), vcpu->run->mmio.phys_addr);
	vcpu_run(vcpu);
	EXPECT_EQ(0, heki_finish_call(vcpu));

	delete(h);
	set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	EXPECT_TRUE(holds(h));
}

HEKI_TEST(slot, flags_change_nothing)
{
	struct heki_vm *h = &self->h;

	set(h, variant->flags ^ KVM_MEM_LOG_DIRTY_PAGES, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	EXPECT_TRUE(holds(h));
	set(h, variant->flags, HEKI_TEST_GPA, SLOT_BYTES, self->hva);
	EXPECT_TRUE(holds(h));
}

HEKI_TEST(slot, new_host_pages_are_sealed_too)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(holds(h));
	ASSERT_EQ(0, madvise(self->hva, 16 * PAGE_SIZE, MADV_DONTNEED));
	EXPECT_EQ(0, heki_peek(h, HEKI_PAGE(SEALED)));
	put_code(h, HEKI_TEST_GPA);
	EXPECT_TRUE(holds(h));
}

/* The host takes the right to write and gives it back, as KSM and migration do. */
HEKI_TEST(slot, protection_by_the_host_comes_and_goes)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(holds(h));
	ASSERT_EQ(0, mprotect(self->hva, 16 * PAGE_SIZE, PROT_READ));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_read, HEKI_PAGE(SEALED)));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_read, HEKI_PAGE(OPEN)));
	EXPECT_TRUE(list_holds(h));
	ASSERT_EQ(0, mprotect(self->hva, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE));
	EXPECT_TRUE(holds(h));
}

/*
 * Transparent huge pages. Of frame 1 one page is sealed, frame 2 is as a whole.
 */

FIXTURE(huge) {
	struct heki_vm h;
	u64 large;	/* 2 MiB pages at the start */
};

static void *frame_hva(struct heki_vm *h, u64 nr)
{
	return heki_hva(h, HEKI_PAGE(FRAME(nr)));
}

FIXTURE_SETUP(huge)
{
	struct heki_vm *h = &self->h;
	struct heki_seal *req;

	if (!thp_configured())
		SKIP(return, "no transparent huge pages");
	__heki_vm_create(h, 1, 0, VM_MEM_SRC_ANONYMOUS_THP);
	ASSERT_EQ(0, madvise(frame_hva(h, 1), FRAME(2) * PAGE_SIZE, MADV_NOHUGEPAGE));
	memset(frame_hva(h, 1), 1, FRAME(2) * PAGE_SIZE);

	req = heki_begin_request(h, 0);
	heki_add_page(req, FRAME(1) + 3);
	heki_add_range(req, HEKI_PAGE(FRAME(2)), FRAME(1) * PAGE_SIZE, 0, HEKI_KIND_RODATA);
	heki_seal(h);
	self->large = vm_get_stat(h->vm, pages_2m);
}

FIXTURE_TEARDOWN(huge)
{
	if (self->h.vm)
		heki_vm_free(&self->h);
}

static int large_pages(struct heki_vm *h, u64 start)
{
	return (int)(vm_get_stat(h->vm, pages_2m) - start);
}

/* Both frames are sealed as they were, and frame 1 is open in all other pages. */
static bool frames_hold(struct heki_vm *h)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];

	return heki_is_sealed(h, vcpu, FRAME(1) + 3) && heki_is_writable(h, vcpu, FRAME(1) + 2) &&
	       heki_is_writable(h, vcpu, FRAME(1) + 4) && heki_is_sealed(h, vcpu, FRAME(2)) &&
	       heki_is_sealed(h, vcpu, FRAME(3) - 1);
}

/* Makes each of the frames one page of the host. Zero or an errno. */
static int collapse(struct heki_vm *h)
{
	void *hva = frame_hva(h, 1);

	if (madvise(hva, FRAME(2) * PAGE_SIZE, MADV_HUGEPAGE) ||
	    madvise(hva, FRAME(2) * PAGE_SIZE, MADV_COLLAPSE))
		return errno;
	return 0;
}

/* Reads, so that KVM maps both. */
static void map_frames(struct heki_vm *h)
{
	heki_call(h->vcpu[0], guest_read, HEKI_PAGE(FRAME(1) + 3));
	heki_call(h->vcpu[0], guest_read, HEKI_PAGE(FRAME(2)));
}

HEKI_TEST(huge, a_collapse_opens_nothing)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(frames_hold(h));
	EXPECT_EQ(0, large_pages(h, self->large));
	if (collapse(h))
		SKIP(return, "the host has no huge pages to spare");
	map_frames(h);
	EXPECT_EQ(1, large_pages(h, self->large));
	EXPECT_TRUE(frames_hold(h));
	EXPECT_EQ(1, large_pages(h, self->large));
}

/* The dirty log takes large pages apart; when it ends KVM puts them together again. */
HEKI_TEST(huge, recovery_opens_nothing)
{
	struct heki_vm *h = &self->h;

	if (collapse(h))
		SKIP(return, "the host has no huge pages to spare");
	map_frames(h);
	EXPECT_EQ(1, large_pages(h, self->large));

	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	EXPECT_TRUE(frames_hold(h));
	EXPECT_EQ(0, large_pages(h, self->large));
	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, 0);
	map_frames(h);
	EXPECT_EQ(1, large_pages(h, self->large));
	EXPECT_TRUE(frames_hold(h));
	EXPECT_EQ(1, large_pages(h, self->large));
}

/*
 * Memory that comes after the seal
 */

#define NEW_SLOT	12
#define NEW_GPA		HEKI_HOLE_GPA
#define NEW_PAGES	16

FIXTURE(plugged) {
	struct heki_vm h;
};

FIXTURE_SETUP(plugged)
{
	heki_vm_create(&self->h, 1);
}

FIXTURE_TEARDOWN(plugged)
{
	heki_vm_free(&self->h);
}

static void plug(struct heki_vm *h)
{
	vm_userspace_mem_region_add(h->vm, VM_MEM_SRC_ANONYMOUS, NEW_GPA, NEW_SLOT, NEW_PAGES, 0);
	virt_pg_map(h->vm, NEW_GPA, NEW_GPA);
	heki_put_code(h, NEW_GPA);
}

HEKI_TEST(plugged, it_can_be_written)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	plug(h);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_write, NEW_GPA, HEKI_ATTACK));
	EXPECT_EQ(HEKI_ATTACK, heki_peek(h, NEW_GPA));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
}

HEKI_TEST(plugged, it_runs_without_a_seal)
{
	plug(&self->h);
	EXPECT_EQ(0, heki_call(self->h.vcpu[0], guest_exec, NEW_GPA));
}

/* The allow-list is older than the memory. */
HEKI_TEST(plugged, it_does_not_run)
{
	struct heki_vm *h = &self->h;

	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	heki_seal_exec(h, heki_begin_exec_request(h));
	plug(h);
	EXPECT_TRUE(heki_cannot_run(h->vcpu[0], NEW_GPA));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_write, NEW_GPA + 64, HEKI_ATTACK));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_exec));
}

/*
 * A slot of KVM itself: page tables for a vCPU without paging, on CPUs that need them. The
 * guest sees the page as memory.
 */
#define IDENTITY_GPA	0xfffbc000ull
#define CODE		0xe3ff41c93145ull	/* as heki_put_code() puts it */

FIXTURE(kvms_own) {
	struct heki_vm h;
};

FIXTURE_SETUP(kvms_own)
{
	if (!host_cpu_is_intel || kvm_is_unrestricted_guest_enabled())
		SKIP(return, "KVM has no memory of its own in a guest here");
	heki_vm_create(&self->h, 1);
	virt_pg_map(self->h.vm, IDENTITY_GPA, IDENTITY_GPA);
}

FIXTURE_TEARDOWN(kvms_own)
{
	heki_vm_free(&self->h);
}

/* What was mapped before the seal is mapped anew. */
HEKI_TEST(kvms_own, it_does_not_run)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];

	if (!heki_has_exec(h))
		SKIP(return, "no MBEC on this host");
	EXPECT_EQ(0, heki_call(vcpu, guest_write, IDENTITY_GPA, CODE));
	EXPECT_EQ(0, heki_call(vcpu, guest_exec, IDENTITY_GPA));
	heki_seal_exec(h, heki_begin_exec_request(h));
	EXPECT_TRUE(heki_cannot_run(vcpu, IDENTITY_GPA));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_exec));
	EXPECT_EQ(0, heki_call(vcpu, guest_write, IDENTITY_GPA, CODE));
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
