// SPDX-License-Identifier: GPL-2.0
/*
 * What a seal holds in memory: writes and supervisor fetches that are denied
 * with #GP and change nothing, and everything next to them that must go on. And
 * what the host tells of it, in counters and traces.
 *
 * Each test has a VM of its own. Page 0 is the one to seal; pages 1 to 511 share
 * its 2 MiB frame. Denials are counted: exactly one each.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kvm_test_harness.h"
#include "heki.h"

#define NR_VCPUS	2
#define NEIGHBOUR	1
#define FAR_NEIGHBOUR	511
#define NEXT_FRAME	512
#define LISTED		8	/* executable where there is an allow-list */
#define UNLISTED	9

/*
 * Every way to write
 */

/* arg[0]: address, arg[1]: value */
static u64 guest_rep_movs(u64 *arg)
{
	u64 to = arg[0], count = sizeof(u64), error_code;
	u64 *from = &arg[1];
	u8 vector;

	asm volatile(KVM_ASM_SAFE("rep movsb")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code),
		       "+S"(from), "+D"(to), "+c"(count)
		     : : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

static u64 guest_rep_stos(u64 *arg)
{
	u64 to = arg[0], count = 1, error_code;
	u8 vector;

	asm volatile(KVM_ASM_SAFE("rep stosq")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code), "+D"(to), "+c"(count)
		     : "a"(arg[1])
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

static u64 guest_cmpxchg(u64 *arg, u64 old)
{
	u64 error_code;
	u8 vector;

	asm volatile(KVM_ASM_SAFE("lock cmpxchgq %[val], (%[gva])")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code), "+a"(old)
		     : [gva] "r"(arg[0]), [val] "r"(arg[1])
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

static u64 guest_lock_cmpxchg(u64 *arg)
{
	return guest_cmpxchg(arg, HEKI_CALM);
}

/* Compares unequal, and is a write for the CPU all the same. */
static u64 guest_vain_cmpxchg(u64 *arg)
{
	return guest_cmpxchg(arg, ~HEKI_CALM);
}

static u64 guest_xchg(u64 *arg)
{
	u64 val = arg[1], error_code;
	u8 vector;

	asm volatile(KVM_ASM_SAFE("xchgq %[val], (%[gva])")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code), [val] "+r"(val)
		     : [gva] "r"(arg[0])
		     : KVM_ASM_SAFE_CLOBBERS, "memory");
	return vector;
}

static u64 guest_write_byte(u64 *arg)
{
	return kvm_asm_safe("movb $0x5a, (%[gva])", [gva]"r"(arg[0]));
}

static u64 guest_lock_or(u64 *arg)
{
	return kvm_asm_safe("lock orb $0x81, (%[gva])", [gva]"r"(arg[0]));
}

static u64 guest_write_sse(u64 *arg)
{
	return kvm_asm_safe("movups %%xmm0, (%[gva])", [gva]"r"(arg[0]));
}

static u64 guest_write_streaming(u64 *arg)
{
	return kvm_asm_safe("movntiq %[val], (%[gva])", [gva]"r"(arg[0]), [val]"r"(arg[1]));
}

FIXTURE(write) {
	struct heki_vm h;
};

FIXTURE_VARIANT(write) {
	u64 (*fn)(u64 *arg);
	bool vain;
};

#define WRITE(_name, _fn)	\
	FIXTURE_VARIANT_ADD(write, _name) { .fn = _fn }

WRITE(mov, guest_write);
WRITE(mov_byte, guest_write_byte);
WRITE(rep_movs, guest_rep_movs);
WRITE(rep_stos, guest_rep_stos);
WRITE(lock_cmpxchg, guest_lock_cmpxchg);
WRITE(lock_or, guest_lock_or);
WRITE(xchg, guest_xchg);
WRITE(sse, guest_write_sse);
WRITE(streaming, guest_write_streaming);
FIXTURE_VARIANT_ADD(write, vain_cmpxchg) { .fn = guest_vain_cmpxchg, .vain = true };

FIXTURE_SETUP(write)
{
	heki_vm_create(&self->h, NR_VCPUS);
}

FIXTURE_TEARDOWN(write)
{
	heki_vm_free(&self->h);
}

/* The same attack, unsealed and sealed, on each vCPU. */
HEKI_TEST(write, is_denied)
{
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		heki_calm_page(h, 0);
		EXPECT_EQ(0, heki_call(h->vcpu[i], variant->fn, HEKI_PAGE(0), HEKI_ATTACK));
		EXPECT_EQ(variant->vain, heki_page_is_calm(h, 0));
	}

	heki_seal_page(h, 0);
	heki_calm_page(h, 0);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[i], variant->fn, HEKI_PAGE(0),
					       HEKI_ATTACK));
		EXPECT_TRUE(heki_page_is_calm(h, 0));
		EXPECT_EQ(1, vcpu_get_stat(h->vcpu[i], heki_denied_write));
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_read, HEKI_PAGE(0)));
	}
}

/*
 * Around a sealed page
 */

FIXTURE(clamp) {
	struct heki_vm h;
};

FIXTURE_SETUP(clamp)
{
	heki_vm_create(&self->h, NR_VCPUS);
	heki_calm_page(&self->h, 0);
}

FIXTURE_TEARDOWN(clamp)
{
	heki_vm_free(&self->h);
}

static u64 guest_load(u64 *arg)
{
	return READ_ONCE(*(u64 *)arg[0]);
}

HEKI_TEST(clamp, reads_go_on)
{
	struct heki_vm *h = &self->h;
	int i;

	heki_seal_page(h, 0);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_EQ(HEKI_CALM, heki_call(h->vcpu[i], guest_load, HEKI_PAGE(0)));
		EXPECT_EQ(HEKI_CALM, heki_call(h->vcpu[i], guest_load, HEKI_PAGE(1) - 8));
		EXPECT_EQ(0, vcpu_get_stat(h->vcpu[i], heki_denied_write));
	}
}

HEKI_TEST(clamp, neighbours_stay_writable)
{
	struct heki_vm *h = &self->h;
	int i;

	heki_seal_page(h, 0);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_TRUE(heki_is_writable(h, h->vcpu[i], NEIGHBOUR));
		EXPECT_TRUE(heki_is_sealed(h, h->vcpu[i], 0));
		EXPECT_TRUE(heki_is_writable(h, h->vcpu[i], FAR_NEIGHBOUR));
		EXPECT_TRUE(heki_is_writable(h, h->vcpu[i], NEXT_FRAME));
		EXPECT_TRUE(heki_is_sealed(h, h->vcpu[i], 0));
	}
}

HEKI_TEST(clamp, ends_of_a_range_are_exact)
{
	struct heki_vm *h = &self->h;

	heki_add_range(heki_begin_request(h, 0), HEKI_PAGE(510), 4 * PAGE_SIZE, 0, 0);
	heki_seal(h);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 509));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 510));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 511));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 512));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 513));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 514));
}

HEKI_TEST(clamp, rights_are_those_asked_for)
{
	struct heki_seal *req = heki_begin_request(&self->h, 0);
	struct heki_vm *h = &self->h;

	heki_add_range(req, HEKI_PAGE(0), PAGE_SIZE, HEKI_WRITE, HEKI_KIND_OTHER);
	heki_add_range(req, HEKI_PAGE(1), PAGE_SIZE, 0, HEKI_KIND_OTHER);
	heki_add_range(req, HEKI_PAGE(2), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_OTHER);
	heki_seal(h);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 1));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 2));
}

/* Without an allow-list everything may run, sealed or not. */
HEKI_TEST(clamp, execution_is_free_without_an_allow_list)
{
	struct heki_vm *h = &self->h;

	heki_put_code(h, HEKI_PAGE(0));
	heki_put_code(h, HEKI_PAGE(NEIGHBOUR));
	heki_seal_page(h, 0);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(0)));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(NEIGHBOUR)));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_exec));
}

HEKI_TEST(clamp, another_mapping_is_no_way_around)
{
	struct heki_vm *h = &self->h;
	gva_t alias = heki_map_alias(h, 0);

	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_write, alias, HEKI_ATTACK));
	EXPECT_EQ(HEKI_ATTACK, heki_peek(h, HEKI_PAGE(0)));
	heki_seal_page(h, 0);
	heki_calm_page(h, 0);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, alias, HEKI_ATTACK));
	EXPECT_TRUE(heki_page_is_calm(h, 0));
}

HEKI_TEST(clamp, write_across_the_end)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, 0);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, HEKI_PAGE(1) - 4,
				       HEKI_ATTACK));
	EXPECT_TRUE(heki_page_is_calm(h, 0));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

HEKI_TEST(clamp, write_across_the_start)
{
	struct heki_vm *h = &self->h;

	heki_calm_page(h, 2);
	heki_seal_page(h, 2);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_write, HEKI_PAGE(2) - 4,
				       HEKI_ATTACK));
	EXPECT_TRUE(heki_page_is_calm(h, 2));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

/* The bytes before the page are written, as on hardware. */
HEKI_TEST(clamp, rep_movs_across_the_start)
{
	struct heki_vm *h = &self->h;

	heki_calm_page(h, 1);
	heki_calm_page(h, 2);
	heki_seal_page(h, 2);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_rep_movs, HEKI_PAGE(2) - 4,
				       HEKI_ATTACK));
	EXPECT_FALSE(heki_page_is_calm(h, 1));
	EXPECT_TRUE(heki_page_is_calm(h, 2));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

HEKI_TEST(clamp, denials_are_counted_where_they_happen)
{
	struct heki_vm *h = &self->h;
	int i;

	heki_seal_page(h, 0);
	for (i = 0; i < 5; i++)
		EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], 0));
	EXPECT_EQ(5, vcpu_get_stat(h->vcpu[1], heki_denied_write));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_write));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_seal));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[1], heki_seal));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[1], heki_denied_exec));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[1], heki_denied_cr));
}

/* The other vCPU has written the page, so its TLB holds it writable. */
HEKI_TEST(clamp, warm_translations_are_gone)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(heki_is_writable(h, h->vcpu[1], 0));
	heki_seal_page(h, 0);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], 0));
}

#define WRITER_ROUNDS	3
#define WRITER_MAX	200000000ull
#define WAIT_MAX	20000000

/*
 * Counts in the page at arg[0] until it may not, or until WRITER_MAX. With
 * interrupts on: an emulated CPU may give its host interrupts only then.
 */
static u64 guest_writer(u64 *arg)
{
	u64 vector = 0, i;

	sti();
	for (i = 1; i <= WRITER_MAX && !vector; i++)
		vector = guest_write((u64[]){ arg[0], i });
	cli();
	return vector;
}

static void *run_thread(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

static bool writer_has_started(struct heki_vm *h)
{
	int i;

	for (i = 0; i < WAIT_MAX; i++) {
		if (heki_peek(h, HEKI_PAGE(0)))
			return true;
		sched_yield();
	}
	return false;
}

/* When the hypercall returns, no vCPU can write any more. */
static void test_running_writer(struct __test_metadata *_metadata)
{
	struct heki_vm h;
	pthread_t thread;
	u64 seen;

	heki_vm_create(&h, NR_VCPUS);
	heki_poke(&h, HEKI_PAGE(0), 0);
	heki_prepare_call(h.vcpu[1], guest_writer, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(0) });
	pthread_create(&thread, NULL, run_thread, h.vcpu[1]);
	EXPECT_TRUE(writer_has_started(&h));

	heki_seal_page(&h, 0);
	seen = heki_peek(&h, HEKI_PAGE(0));
	pthread_join(thread, NULL);

	EXPECT_EQ(GP_VECTOR, heki_finish_call(h.vcpu[1]));
	EXPECT_EQ(seen, heki_peek(&h, HEKI_PAGE(0)));
	EXPECT_NE(WRITER_MAX, seen);
	EXPECT_EQ(1, vcpu_get_stat(h.vcpu[1], heki_denied_write));
	heki_vm_free(&h);
}

HEKI_TEST(clamp, a_running_writer_stops_at_once)
{
	int i;

	for (i = 0; i < WRITER_ROUNDS; i++)
		test_running_writer(_metadata);
}

static bool is_dirty(u8 *log, u64 nr)
{
	return log[nr / 8] & (1 << (nr % 8));
}

HEKI_TEST(clamp, dirty_logging_keeps_the_seal)
{
	u8 log[HEKI_TEST_PAGES / 8] = {};
	struct heki_vm *h = &self->h;

	heki_seal_page(h, 0);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));

	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], 0));
	kvm_vm_get_dirty_log(h->vm, HEKI_TEST_SLOT, log);
	EXPECT_FALSE(is_dirty(log, 0));
	EXPECT_TRUE(is_dirty(log, NEIGHBOUR));

	/* Taking the log protects again what was written. */
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[1], NEIGHBOUR));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], 0));

	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, 0);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
}

HEKI_TEST(clamp, sealing_while_dirty_logging)
{
	struct heki_vm *h = &self->h;

	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], 0));
	heki_seal_page(h, 0);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, 0);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], 0));
}

/* The host takes the pages away: new ones are as sealed as the old ones. */
HEKI_TEST(clamp, new_host_pages_keep_the_seal)
{
	struct heki_vm *h = &self->h;
	void *hva = heki_hva(h, HEKI_PAGE(0));

	heki_seal_page(h, 0);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_read, HEKI_PAGE(0)));
	ASSERT_EQ(0, madvise(hva, 16 * PAGE_SIZE, MADV_DONTNEED));
	EXPECT_EQ(0, heki_peek(h, HEKI_PAGE(0)));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
}

HEKI_TEST(clamp, a_new_memslot_keeps_the_seal)
{
	struct heki_vm *h = &self->h;
	void *hva = heki_hva(h, HEKI_PAGE(0));
	u64 len = HEKI_TEST_PAGES * PAGE_SIZE;

	heki_seal_page(h, 0);
	vm_set_user_memory_region(h->vm, HEKI_TEST_SLOT, 0, HEKI_TEST_GPA, 0, hva);
	vm_set_user_memory_region(h->vm, HEKI_TEST_SLOT, 0, HEKI_TEST_GPA, len, hva);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
}

HEKI_TEST(clamp, prefaulted_pages_keep_the_seal)
{
	struct kvm_pre_fault_memory range = {
		.gpa = HEKI_TEST_GPA,
		.size = 4 * PAGE_SIZE,
	};
	struct heki_vm *h = &self->h;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_PRE_FAULT_MEMORY");
	heki_seal_page(h, 0);
	EXPECT_EQ(0, __vcpu_ioctl(h->vcpu[0], KVM_PRE_FAULT_MEMORY, &range));
	EXPECT_EQ(0, range.size);
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_write));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
}

/* The CPU would set the accessed bit in an entry that lies in a sealed page. */
HEKI_TEST(clamp, page_tables_are_not_written_either)
{
	struct heki_vm *h = &self->h;
	gva_t alias = heki_map_alias(h, NEIGHBOUR);
	u64 *pte = vm_get_pte(h->vm, alias);
	u64 before = *pte;

	heki_add_range(heki_begin_request(h, 0), addr_hva2gpa(h->vm, pte) & PAGE_MASK,
		       PAGE_SIZE, 0, HEKI_KIND_OTHER);
	heki_seal(h);
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_read, alias));
	EXPECT_EQ(before, READ_ONCE(*pte));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

/* Moves the stack into the page at arg[0] and faults there. */
static u64 guest_fault_on_stack(u64 *arg)
{
	asm volatile("mov %[gva], %%rsp\n\t"
		     "ud2\n\t"
		     : : [gva] "r"(arg[0]) : "memory");
	return 0;
}

/* The #GP cannot be delivered either: a shutdown, not a loop. */
HEKI_TEST(clamp, an_exception_on_a_sealed_stack_ends)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, 0);
	heki_prepare_call(h->vcpu[0], guest_fault_on_stack,
			  (u64[HEKI_NR_ARGS]){ HEKI_PAGE(1) - 64 });
	vcpu_run(h->vcpu[0]);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, h->vcpu[0]->run->exit_reason);
	EXPECT_TRUE(heki_page_is_calm(h, 0));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], 0));
}

/*
 * The allow-list
 */

FIXTURE(exec) {
	struct heki_vm h;
};

FIXTURE_SETUP(exec)
{
	heki_vm_create(&self->h, NR_VCPUS);
	if (!heki_has_exec(&self->h))
		SKIP(return, "neither MBEC nor GMET on this host");
	heki_put_code(&self->h, HEKI_PAGE(LISTED));
	heki_put_code(&self->h, HEKI_PAGE(UNLISTED));
}

FIXTURE_TEARDOWN(exec)
{
	heki_vm_free(&self->h);
}

static void seal_list(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_exec_request(h);

	heki_add_range(req, HEKI_PAGE(LISTED), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_MODULE_TEXT);
	heki_seal_exec(h, req);
}

HEKI_TEST(exec, what_is_not_listed_is_denied)
{
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_exec, HEKI_PAGE(LISTED)));
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_exec, HEKI_PAGE(UNLISTED)));
	}
	seal_list(h);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_exec, HEKI_PAGE(LISTED)));
		EXPECT_TRUE(heki_cannot_run(h->vcpu[i], HEKI_PAGE(UNLISTED)));
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_exec, HEKI_PAGE(LISTED)));
		EXPECT_EQ(0, vcpu_get_stat(h->vcpu[i], heki_denied_write));
	}
}

HEKI_TEST(exec, what_is_listed_cannot_be_written)
{
	struct heki_vm *h = &self->h;

	seal_list(h);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], LISTED));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[1], LISTED));
}

/* What the guest can write, it cannot run. */
HEKI_TEST(exec, new_code_does_not_run)
{
	struct heki_vm *h = &self->h;

	seal_list(h);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], UNLISTED));
	heki_put_code(h, HEKI_PAGE(UNLISTED));
	EXPECT_TRUE(heki_cannot_run(h->vcpu[0], HEKI_PAGE(UNLISTED)));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], UNLISTED));
	heki_put_code(h, HEKI_PAGE(UNLISTED));
	EXPECT_TRUE(heki_cannot_run(h->vcpu[1], HEKI_PAGE(UNLISTED)));
}

/* One byte of the instruction is in the listed page, the rest is not. */
HEKI_TEST(exec, an_instruction_across_the_end_is_denied)
{
	struct heki_vm *h = &self->h;
	u8 *end = heki_hva(h, HEKI_PAGE(UNLISTED));
	u8 *code = heki_hva(h, HEKI_PAGE(LISTED));
	u8 insns[8];

	memcpy(insns, code, sizeof(insns));
	memcpy(end - 1, insns, sizeof(insns));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(UNLISTED) - 1));
	seal_list(h);
	EXPECT_TRUE(heki_cannot_run(h->vcpu[0], HEKI_PAGE(UNLISTED) - 1));
}

HEKI_TEST(exec, user_mode_runs_what_it_likes)
{
	struct heki_vm *h = &self->h;
	gva_t user = heki_map_alias(h, UNLISTED);

	heki_map_user(h, user);
	heki_put_user_code(h, HEKI_PAGE(UNLISTED));
	seal_list(h);
	EXPECT_TRUE(heki_run_user(h->vcpu[0], user));
	EXPECT_TRUE(heki_run_user(h->vcpu[0], user));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_exec));
}

/* User mode writes code and runs it; supervisor mode does not, by any mapping. */
HEKI_TEST(exec, user_code_is_not_for_the_supervisor)
{
	struct heki_vm *h = &self->h;
	gva_t user = heki_map_alias(h, UNLISTED);

	heki_map_user(h, user);
	seal_list(h);
	heki_put_user_code(h, HEKI_PAGE(UNLISTED));
	EXPECT_TRUE(heki_run_user(h->vcpu[0], user));
	heki_put_code(h, HEKI_PAGE(UNLISTED));
	EXPECT_TRUE(heki_cannot_run(h->vcpu[0], HEKI_PAGE(UNLISTED)));
	/* The guest's own SMEP is first here. */
	EXPECT_EQ(PF_VECTOR, heki_call(h->vcpu[0], guest_exec, user));
	/* And cannot be taken away. */
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_set_cr4,
				       heki_call(h->vcpu[0], guest_get_cr4) & ~X86_CR4_SMEP));
	EXPECT_EQ(PF_VECTOR, heki_call(h->vcpu[0], guest_exec, user));
}

HEKI_TEST(exec, dirty_logging_keeps_the_list)
{
	struct heki_vm *h = &self->h;

	seal_list(h);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	EXPECT_TRUE(heki_cannot_run(h->vcpu[0], HEKI_PAGE(UNLISTED)));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(LISTED)));
	vm_mem_region_set_flags(h->vm, HEKI_TEST_SLOT, 0);
	EXPECT_TRUE(heki_cannot_run(h->vcpu[0], HEKI_PAGE(UNLISTED)));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_exec, HEKI_PAGE(LISTED)));
}

/*
 * Paging off: hardware with MBEC takes every address for a user address then.
 */

static void set_real_mode_segment(struct kvm_segment *seg, u64 base, u8 type)
{
	*seg = (struct kvm_segment){
		.base = base,
		.limit = 0xffff,
		.type = type,
		.present = 1,
		.s = 1,
	};
}

/* Sends the vCPU into real mode at @gpa, where heki_put_user_code() was. */
static void enter_real_mode(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_regs regs = { .rflags = X86_EFLAGS_FIXED };
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 = X86_CR0_ET | X86_CR0_NE;
	sregs.cr4 = 0;
	sregs.efer = 0;
	set_real_mode_segment(&sregs.cs, gpa, 0xb);
	set_real_mode_segment(&sregs.ds, 0, 0x3);
	sregs.es = sregs.ds;
	sregs.fs = sregs.ds;
	sregs.gs = sregs.ds;
	sregs.ss = sregs.ds;
	sregs.tr.limit = 0xffff;
	sregs.idt.base = 0;
	sregs.idt.limit = 0;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_set(vcpu, &regs);
}

static bool is_at_port(struct kvm_vcpu *vcpu)
{
	return vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == HEKI_USER_PORT;
}

/* mov $HEKI_USER_PORT, %dx; out %al, (%dx), and again. */
static void put_real_mode_code(struct heki_vm *h, u64 nr)
{
	static const u8 code[] = { 0xba, HEKI_USER_PORT, 0x00, 0xee, 0xee };

	memcpy(heki_hva(h, HEKI_PAGE(nr)), code, sizeof(code));
}

FIXTURE(unpaged) {
	struct heki_vm h;
};

FIXTURE_SETUP(unpaged)
{
	heki_vm_create(&self->h, NR_VCPUS);
	if (!heki_has_exec(&self->h))
		SKIP(return, "neither MBEC nor GMET on this host");
	if (host_cpu_is_intel && !kvm_is_unrestricted_guest_enabled())
		SKIP(return, "real mode is emulated on this host");
	put_real_mode_code(&self->h, LISTED);
	put_real_mode_code(&self->h, UNLISTED);
}

FIXTURE_TEARDOWN(unpaged)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(unpaged, listed_code_runs)
{
	struct heki_vm *h = &self->h;

	seal_list(h);
	enter_real_mode(h->vcpu[1], HEKI_PAGE(LISTED));
	vcpu_run(h->vcpu[1]);
	EXPECT_TRUE(is_at_port(h->vcpu[1]));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[1], heki_denied_exec));
}

HEKI_TEST(unpaged, unlisted_code_shuts_the_vcpu_down)
{
	struct heki_vm *h = &self->h;

	seal_list(h);
	/* The page is mapped for vCPU 0, where user mode may run it: vCPU 1 needs another root. */
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_read, HEKI_PAGE(UNLISTED)));
	enter_real_mode(h->vcpu[1], HEKI_PAGE(UNLISTED));
	vcpu_run(h->vcpu[1]);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, h->vcpu[1]->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[1], heki_denied_exec));
}

/* One that the VMM adds after the seal has never had another root. */
HEKI_TEST(unpaged, unlisted_code_shuts_a_later_vcpu_down)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu;

	seal_list(h);
	heki_add_vcpu(h, NR_VCPUS, 0);
	vcpu = h->vcpu[NR_VCPUS];
	enter_real_mode(vcpu, HEKI_PAGE(LISTED));
	vcpu_run(vcpu);
	EXPECT_TRUE(is_at_port(vcpu));
	vcpu_run_complete_io(vcpu);
	enter_real_mode(vcpu, HEKI_PAGE(UNLISTED));
	vcpu_run(vcpu);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_exec));
}

/* A vCPU that was there when the other one sealed stops too. */
HEKI_TEST(unpaged, unlisted_code_stops_when_the_vm_is_sealed)
{
	struct heki_vm *h = &self->h;

	enter_real_mode(h->vcpu[1], HEKI_PAGE(UNLISTED));
	vcpu_run(h->vcpu[1]);
	ASSERT_TRUE(is_at_port(h->vcpu[1]));
	seal_list(h);
	vcpu_run(h->vcpu[1]);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, h->vcpu[1]->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[1], heki_denied_exec));
}

/*
 * What the host tells of it
 */

#define TRACING		"/sys/kernel/tracing"
#define INSTANCE	TRACING "/instances/heki_selftest"
#define TRACE_MAX	65536

FIXTURE(trace) {
	struct heki_vm h;
	char *text;
};

FIXTURE_SETUP(trace)
{
	if (access(TRACING "/events/kvm_heki", F_OK) ||
	    (mkdir(INSTANCE, 0700) && errno != EEXIST) ||
	    !heki_set_param(INSTANCE "/events/kvm_heki/enable", "1"))
		SKIP(return, "no tracefs at " TRACING);
	heki_vm_create(&self->h, 1);
	self->text = calloc(1, TRACE_MAX);
	ASSERT_TRUE(!!self->text);
}

FIXTURE_TEARDOWN(trace)
{
	heki_set_param(INSTANCE "/events/kvm_heki/enable", "0");
	rmdir(INSTANCE);
	heki_vm_free(&self->h);
	free(self->text);
}

static void read_trace(char *text)
{
	int fd = open(INSTANCE "/trace", O_RDONLY);
	ssize_t ret, len = 0;

	TEST_ASSERT(fd >= 0, "No trace");
	while ((ret = read(fd, text + len, TRACE_MAX - 1 - len)) > 0)
		len += ret;
	close(fd);
}

/* Lines of this process that have both words. */
static int count_lines(const char *text, const char *event, const char *word)
{
	char *copy = strdup(text), *line, *rest = copy, task[16];
	int nr = 0;

	snprintf(task, sizeof(task), "-%d ", getpid());
	while ((line = strsep(&rest, "\n")))
		nr += strstr(line, task) && strstr(line, event) && strstr(line, word);
	free(copy);
	return nr;
}

HEKI_TEST(trace, every_decision_is_one_line)
{
	struct heki_vm *h = &self->h;
	struct heki_seal *req;

	heki_query(h);
	heki_begin_request(h, 0);
	heki_send(h, h->vcpu[0]);
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	req = heki_begin_request(h, 0);
	heki_add_page(req, 0);
	heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(h);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], NEIGHBOUR));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], 0));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_set_cr0,
				       heki_call(h->vcpu[0], guest_get_cr0) & ~X86_CR0_WP));

	read_trace(self->text);
	EXPECT_EQ(1, count_lines(self->text, "kvm_heki_query: ", "vcpu 0 "));
	EXPECT_EQ(2, count_lines(self->text, "kvm_heki_seal: ", "vcpu 0 "));
	EXPECT_EQ(1, count_lines(self->text, "kvm_heki_seal: ", "empty ret -22"));
	EXPECT_EQ(1, count_lines(self->text, "kvm_heki_seal: ", "ranges 1 pins 1 flags 0x0 "));
	EXPECT_EQ(2, count_lines(self->text, "kvm_heki_deny: ", "vcpu 0 "));
	EXPECT_EQ(1, count_lines(self->text, "kvm_heki_deny: ", "access write gfn 0x40000 "));
	EXPECT_EQ(1, count_lines(self->text, "kvm_heki_deny: ", "reason sealed"));
	EXPECT_EQ(1, count_lines(self->text, "kvm_heki_deny: ",
				 "cr0 index 0x0 bits 0x10000 reason pinned"));
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
