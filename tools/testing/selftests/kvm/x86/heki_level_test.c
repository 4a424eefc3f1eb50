// SPDX-License-Identifier: GPL-2.0
/*
 * Large pages under a seal: they stay where rights are uniform, go where rights
 * differ, and a split gives nothing back.
 *
 * The test memory is hugetlbfs here, so the host maps it in frames of 2 MiB. KVM
 * says in the statistics pages_2m and pages_4k how it maps them. The guest's own
 * code and data lie in small pages of another memslot.
 */
#include "kvm_test_harness.h"
#include "smm.h"
#include "heki.h"

#define FRAME(nr)	((nr) * 512)	/* first page of a 2 MiB frame */
#define NR_FRAMES	(HEKI_TEST_PAGES / 512)
#define HUGEPAGES	"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define NX_HUGE_PAGES	"/sys/module/kvm/parameters/nx_huge_pages"

static int read_number(const char *path)
{
	char text[16] = {};
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -1;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return atoi(text);
}

/* Asks for huge pages if there are too few; they stay when the test ends. */
static bool has_hugepages(void)
{
	char wanted[16];

	if (read_number(HUGEPAGES) < NR_FRAMES) {
		snprintf(wanted, sizeof(wanted), "%d", NR_FRAMES);
		heki_set_param(HUGEPAGES, wanted);
	}
	return read_number(HUGEPAGES) >= NR_FRAMES;
}

FIXTURE(level) {
	struct heki_vm h;
	u64 large;	/* 2 MiB pages at the start */
};

FIXTURE_SETUP(level)
{
	if (!has_hugepages())
		SKIP(return, "no huge pages of 2 MiB to be had");
	__heki_vm_create(&self->h, 1, 0, VM_MEM_SRC_ANONYMOUS_HUGETLB_2MB);
	/* Lets the guest's own pages be mapped before anything is counted. */
	heki_query(&self->h);
	self->large = vm_get_stat(self->h.vm, pages_2m);
}

FIXTURE_TEARDOWN(level)
{
	if (self->h.vm)
		heki_vm_free(&self->h);
}

/* The host has written the page, so KVM would map it writable if it could. */
static bool can_read(struct heki_vm *h, u64 nr)
{
	heki_poke(h, HEKI_PAGE(nr), HEKI_CALM);
	return !heki_call(h->vcpu[0], guest_read, HEKI_PAGE(nr));
}

static bool is_writable(struct heki_vm *h, u64 nr)
{
	heki_poke(h, HEKI_PAGE(nr), HEKI_CALM);
	return !heki_call(h->vcpu[0], guest_write, HEKI_PAGE(nr), HEKI_ATTACK) &&
	       heki_peek(h, HEKI_PAGE(nr)) == HEKI_ATTACK;
}

static bool is_sealed(struct heki_vm *h, u64 nr)
{
	heki_poke(h, HEKI_PAGE(nr), HEKI_CALM);
	return heki_call(h->vcpu[0], guest_write, HEKI_PAGE(nr), HEKI_ATTACK) == GP_VECTOR &&
	       heki_peek(h, HEKI_PAGE(nr)) == HEKI_CALM;
}

/* How many 2 MiB pages KVM has now that it did not have at the start. */
static int large_pages(struct heki_vm *h, u64 start)
{
	return (int)(vm_get_stat(h->vm, pages_2m) - start);
}

static void seal_range(struct heki_vm *h, u64 nr, u64 nr_pages)
{
	heki_add_range(heki_begin_request(h, 0), HEKI_PAGE(nr), nr_pages * PAGE_SIZE, 0,
		       HEKI_KIND_RODATA);
	heki_seal(h);
}

/* What the other tests rely on: unsealed, every frame is one large page. */
HEKI_TEST(level, unsealed_frames_are_large)
{
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < NR_FRAMES; i++) {
		EXPECT_TRUE(is_writable(h, FRAME(i)));
		EXPECT_EQ(i + 1, large_pages(h, self->large));
	}
}

HEKI_TEST(level, uniform_frames_stay_large)
{
	struct heki_vm *h = &self->h;

	seal_range(h, FRAME(1), 512);
	EXPECT_TRUE(can_read(h, FRAME(1)));
	EXPECT_EQ(1, large_pages(h, self->large));
	EXPECT_TRUE(is_sealed(h, FRAME(1)));
	EXPECT_TRUE(is_sealed(h, FRAME(2) - 1));
	EXPECT_EQ(1, large_pages(h, self->large));

	EXPECT_TRUE(is_writable(h, FRAME(1) - 1));
	EXPECT_TRUE(is_writable(h, FRAME(2)));
	EXPECT_EQ(3, large_pages(h, self->large));
}

/* Many ranges with the same rights are as good as one. */
HEKI_TEST(level, a_frame_of_many_ranges_stays_large)
{
	struct heki_seal *req = heki_begin_request(&self->h, 0);
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < 512; i++)
		heki_add_range(req, HEKI_PAGE(FRAME(1) + i), PAGE_SIZE, 0,
			       i % HEKI_KIND_FTRACE);
	heki_seal(h);
	EXPECT_TRUE(can_read(h, FRAME(1)));
	EXPECT_EQ(1, large_pages(h, self->large));
	EXPECT_TRUE(is_sealed(h, FRAME(1) + 77));
}

HEKI_TEST(level, mixed_frames_are_small)
{
	struct heki_vm *h = &self->h;
	u64 small;

	seal_range(h, FRAME(1) + 3, 1);
	small = vm_get_stat(h->vm, pages_4k);
	EXPECT_TRUE(can_read(h, FRAME(1) + 3));
	EXPECT_TRUE(is_writable(h, FRAME(1) + 2));
	EXPECT_TRUE(is_writable(h, FRAME(1) + 4));
	EXPECT_TRUE(is_writable(h, FRAME(2) - 1));
	EXPECT_TRUE(is_sealed(h, FRAME(1) + 3));
	EXPECT_EQ(0, large_pages(h, self->large));
	EXPECT_LE(small + 4, vm_get_stat(h->vm, pages_4k));

	EXPECT_TRUE(is_writable(h, FRAME(0)));
	EXPECT_TRUE(is_writable(h, FRAME(2)));
	EXPECT_EQ(2, large_pages(h, self->large));
}

/* A range that ends within two frames: both are mixed, what lies between is not. */
HEKI_TEST(level, only_the_ends_of_a_range_are_small)
{
	struct heki_vm *h = &self->h;

	seal_range(h, FRAME(2) - 1, 514);
	EXPECT_TRUE(is_sealed(h, FRAME(2) - 1));
	EXPECT_TRUE(is_writable(h, FRAME(2) - 2));
	EXPECT_TRUE(is_sealed(h, FRAME(3)));
	EXPECT_TRUE(is_writable(h, FRAME(3) + 1));
	EXPECT_EQ(0, large_pages(h, self->large));
	EXPECT_TRUE(can_read(h, FRAME(2)));
	EXPECT_TRUE(is_sealed(h, FRAME(2) + 100));
	EXPECT_EQ(1, large_pages(h, self->large));
}

/* A large page that was there before is taken apart by the seal. */
HEKI_TEST(level, a_large_page_is_taken_apart)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(is_writable(h, FRAME(1) + 3));
	EXPECT_EQ(1, large_pages(h, self->large));
	seal_range(h, FRAME(1) + 3, 1);
	EXPECT_TRUE(is_sealed(h, FRAME(1) + 3));
	EXPECT_TRUE(is_writable(h, FRAME(1) + 2));
	EXPECT_EQ(0, large_pages(h, self->large));
}

/* KVM splits a large page for dirty logging: every part is as sealed as the whole. */
HEKI_TEST(level, dirty_logging_splits_a_sealed_frame)
{
	struct heki_vm *h = &self->h;

	seal_range(h, FRAME(1), 512);
	EXPECT_TRUE(can_read(h, FRAME(1)));
	EXPECT_TRUE(can_read(h, FRAME(2)));
	EXPECT_EQ(2, large_pages(h, self->large));

	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	EXPECT_TRUE(is_sealed(h, FRAME(1)));
	EXPECT_TRUE(is_sealed(h, FRAME(1) + 200));
	EXPECT_TRUE(is_sealed(h, FRAME(2) - 1));
	EXPECT_TRUE(is_writable(h, FRAME(2)));
	EXPECT_EQ(0, large_pages(h, self->large));

	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, 0);
	EXPECT_TRUE(is_sealed(h, FRAME(1)));
	EXPECT_TRUE(is_writable(h, FRAME(2) + 1));
}

/*
 * With an allow-list
 */

static void seal_list(struct heki_vm *h)
{
	heki_seal_exec(h, heki_begin_exec_request(h));
}

/* Code in the last page of the frame, so that reading its first page is another access. */
static bool cannot_run(struct heki_vm *h, u64 frame)
{
	heki_put_code(h, HEKI_PAGE(FRAME(frame + 1) - 1));
	return heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(FRAME(frame + 1) - 1)) == GP_VECTOR;
}

FIXTURE(list) {
	struct heki_vm h;
	char nx;	/* the host's setting, to be put back */
	u64 large;
};

FIXTURE_VARIANT(list) {
	const char *nx_huge_pages;
};

/* The mitigation maps large pages without execution and gives it back to small ones. */
FIXTURE_VARIANT_ADD(list, nx_huge_pages_off) { .nx_huge_pages = "off" };
FIXTURE_VARIANT_ADD(list, nx_huge_pages_on) { .nx_huge_pages = "force" };

FIXTURE_SETUP(list)
{
	if (!has_hugepages())
		SKIP(return, "no huge pages of 2 MiB to be had");
	__heki_vm_create(&self->h, 1, 0, VM_MEM_SRC_ANONYMOUS_HUGETLB_2MB);
	if (!heki_has_exec(&self->h))
		SKIP(return, "neither MBEC nor GMET on this host");
	self->nx = heki_param(NX_HUGE_PAGES);
	if (!heki_set_param(NX_HUGE_PAGES, variant->nx_huge_pages))
		SKIP(return, "kvm.nx_huge_pages cannot be set");
	self->large = vm_get_stat(self->h.vm, pages_2m);
}

FIXTURE_TEARDOWN(list)
{
	if (self->nx)
		heki_set_param(NX_HUGE_PAGES, self->nx == 'Y' ? "force" : "off");
	if (self->h.vm)
		heki_vm_free(&self->h);
}

HEKI_TEST(list, unlisted_frames_stay_large)
{
	struct heki_vm *h = &self->h;

	seal_list(h);
	EXPECT_TRUE(is_writable(h, FRAME(1)));
	EXPECT_EQ(1, large_pages(h, self->large));
	EXPECT_TRUE(cannot_run(h, 1));
	EXPECT_TRUE(is_writable(h, FRAME(1) + 1));
	EXPECT_EQ(1, large_pages(h, self->large));
}

/* The split of a large page is the second place that makes rights. */
HEKI_TEST(list, a_split_gives_no_execution_back)
{
	struct heki_vm *h = &self->h;

	seal_list(h);
	EXPECT_TRUE(is_writable(h, FRAME(1)));
	EXPECT_EQ(1, large_pages(h, self->large));
	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	EXPECT_TRUE(cannot_run(h, 1));
	EXPECT_TRUE(is_writable(h, FRAME(1)));
	EXPECT_EQ(0, large_pages(h, self->large));
	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, 0);
	EXPECT_TRUE(cannot_run(h, 1));
}

/* User mode runs one page of a frame, which splits it under the mitigation. */
HEKI_TEST(list, a_frame_that_user_mode_runs)
{
	u64 nr = FRAME(1) + 5, other = FRAME(1) + 6;
	struct heki_vm *h = &self->h;
	gva_t user = heki_map_alias(h, nr);

	heki_map_user(h, user);
	heki_put_user_code(h, HEKI_PAGE(nr));
	heki_put_code(h, HEKI_PAGE(other));
	seal_list(h);
	EXPECT_TRUE(is_writable(h, FRAME(1)));
	EXPECT_TRUE(heki_run_user(h->vcpu[0], user));
	EXPECT_TRUE(cannot_run(h, 1));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(other)));
	heki_put_code(h, HEKI_PAGE(nr));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(nr)));
}

/* One listed page makes its frame mixed; the page runs, its neighbours do not. */
HEKI_TEST(list, a_listed_page_in_a_frame)
{
	struct heki_seal *req = heki_begin_exec_request(&self->h);
	struct heki_vm *h = &self->h;
	u64 nr = FRAME(1) + 5;

	heki_put_code(h, HEKI_PAGE(nr));
	heki_add_range(req, HEKI_PAGE(nr), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_MODULE_TEXT);
	heki_seal_exec(h, req);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(nr)));
	EXPECT_TRUE(cannot_run(h, 1));
	EXPECT_TRUE(is_sealed(h, nr));
	EXPECT_TRUE(is_writable(h, nr + 1));
	EXPECT_EQ(0, large_pages(h, self->large));
}

#define SMM_SLOT	(1 << 16 | HEKI_TEST_SLOT)

static void run_smm(struct heki_vm *h)
{
	inject_smi(h->vcpu[0]);
	heki_query(h);
}

/* Rights end where those of the normal address space do, SMRAM where it likes. */
HEKI_TEST(level, smm_has_small_pages)
{
	static const u8 rsm[] = { 0x0f, 0xaa };
	struct heki_vm *h = &self->h;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	vm_set_user_memory_region(h->vm, SMM_SLOT, 0, HEKI_TEST_GPA, HEKI_TEST_PAGES * PAGE_SIZE,
				  heki_hva(h, HEKI_TEST_GPA));
	vcpu_set_msr(h->vcpu[0], MSR_IA32_SMBASE, HEKI_PAGE(FRAME(1)));
	memcpy(heki_hva(h, HEKI_PAGE(FRAME(1)) + 0x8000), rsm, sizeof(rsm));
	run_smm(h);
	EXPECT_EQ(1, large_pages(h, self->large));
	seal_range(h, FRAME(3), 1);
	run_smm(h);
	EXPECT_EQ(0, large_pages(h, self->large));
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
